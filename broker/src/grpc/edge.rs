//! Owns what each call does: it is read, asked of the core, answered. Reading and shaping is done by the files beside this one.

use super::caller::Caller;
use super::clients::Clients;
use super::proto::{
    AckMessageRequest, AckMessageResponse, ChangeInvisibleDurationRequest, Code,
    ForwardMessageToDeadLetterQueueRequest, Language, QueryAssignmentRequest, QueryAssignmentResponse,
    QueryRouteRequest, QueryRouteResponse, ReceiveMessageRequest, SendMessageRequest, SendMessageResponse,
    Settings,
};
use super::receive::{Delivery, Lent};
use super::send::Rules;
use super::settings::{declared, subscription};
use super::status::{Refused, ok, refuse};
use super::{Clock, GrpcConfig, SENDS_IN_FLIGHT_MAX_BYTES, names, receive, route, send, settle};
use crate::api::{
    Answer, ConfigureTopic, Heartbeat, LeasedMessage, Query, QueryAnswer, ReceiveMessages, Refusal,
    SendMessages, TopicInfo, Unregister,
};
use crate::api::{ConnectionId, Request as Ask};
use crate::handle::{CoreHandle, NotTaken};
use lifecycle::clock::Now;
use lifecycle::identity::Name;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use wire::name::AUTO_CREATE_TOPIC;

/// How often clients that went silent are looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Topics created by being asked for may be read and written.
const PERM_READ_WRITE: u32 = 6;

/// The edge; one for all connections.
pub(super) struct Edge {
    core: CoreHandle,
    pub(super) config: GrpcConfig,
    clock: Clock,
    pub(super) shutdown: CancellationToken,
    pub(super) clients: Clients,
    /// Kibibytes of bodies that may still be taken.
    sends: Semaphore,
}

impl Edge {
    pub(super) fn new(
        core: CoreHandle,
        config: GrpcConfig,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> Self {
        let clients = Clients::new(&config);
        let sends = Semaphore::new(SENDS_IN_FLIGHT_MAX_BYTES / 1_024);
        Edge { core, config, clock, shutdown, clients, sends }
    }

    pub(super) fn now(&self) -> Now {
        (self.clock)()
    }

    /// Tells the core of clients that are gone, for ever.
    pub(super) async fn watch_clients(&self) {
        let mut untold: Vec<ConnectionId> = Vec::new();
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            untold.extend(self.clients.sweep(self.now().mono_ms));
            // what does not fit into the core's queue is told at the next look
            untold
                .retain(|connection| self.core.submit(Ask::Disconnected(*connection)) == Err(NotTaken::Full));
        }
    }

    /// Settings of a client: remembered, and told to the core. Answers whether the client is to consume in order.
    pub(super) async fn declare(
        &self,
        caller: &Caller,
        language: Language,
        settings: &Settings,
    ) -> Result<bool, Refused> {
        let now = self.now();
        let declared = declared(settings, now.wall_ms)?;
        let heartbeat = self.clients.declare(caller, language, declared, now.mono_ms)?;
        let topics: Vec<Name> = heartbeat
            .consumers
            .iter()
            .flat_map(|consumer| &consumer.subscriptions)
            .map(|subscription| subscription.topic.clone())
            .collect();
        self.tell(heartbeat).await?;
        for topic in topics {
            if self.find_topic(&topic).await?.is_ok_and(|topic| route::is_ordered(&topic)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn tell(&self, heartbeat: Heartbeat) -> Result<(), Refused> {
        Ok(self.core.call(|reply| Ask::Heartbeat(heartbeat, reply)).await??)
    }

    /// A topic for a route; created when it is missing and the configuration says so.
    async fn topic(&self, caller: &Caller, name: &Name) -> Result<TopicInfo, Refused> {
        let found = self.find_topic(name).await?;
        match (found, self.config.auto_create_queues) {
            (Err(Refusal::TopicNotFound(_)), Some(queues)) if may_be_created(name) => {
                let create = ConfigureTopic {
                    name: name.clone(),
                    read_queues: queues,
                    write_queues: queues,
                    perm: PERM_READ_WRITE,
                    message_type: Name::from("MIXED"),
                    // somebody may have made it since we looked
                    only_if_absent: true,
                    actor: caller.client.clone(),
                };
                self.core.call(|reply| Ask::ConfigureTopic(create, reply)).await??;
                Ok(self.find_topic(name).await??)
            }
            (found, _) => Ok(found?),
        }
    }

    async fn find_topic(&self, name: &Name) -> Result<Answer<TopicInfo>, NotTaken> {
        let answer = self.core.call(|reply| Ask::Query(Query::Topic(name.clone()), reply)).await?;
        Ok(answer.and_then(|answer| match answer {
            QueryAnswer::Topic(topic) => Ok(topic),
            _ => Err(Refusal::TopicNotFound(name.to_string())),
        }))
    }

    pub(super) async fn route(
        &self,
        caller: &Caller,
        request: QueryRouteRequest,
    ) -> Result<QueryRouteResponse, Refused> {
        let topic = self.topic(caller, &names::topic(request.topic.as_ref())?).await?;
        let endpoints = route::endpoints(request.endpoints, &self.config);
        let resource = request.topic.unwrap_or_default();
        let message_queues = route::queues(&topic, &resource, &endpoints, &self.config);
        Ok(QueryRouteResponse { status: Some(ok()), message_queues })
    }

    pub(super) async fn assignment(
        &self,
        request: QueryAssignmentRequest,
    ) -> Result<QueryAssignmentResponse, Refused> {
        names::group(request.group.as_ref())?;
        let topic = self.find_topic(&names::topic(request.topic.as_ref())?).await??;
        let endpoints = route::endpoints(request.endpoints, &self.config);
        let resource = request.topic.unwrap_or_default();
        let assignments = route::assignments(&topic, &resource, &endpoints, &self.config)?;
        Ok(QueryAssignmentResponse { status: Some(ok()), assignments })
    }

    pub(super) async fn send(
        &self,
        caller: &Caller,
        ids: &[String],
        request: SendMessageRequest,
    ) -> Result<SendMessageResponse, Refused> {
        let now = self.now();
        let connection = self.clients.heard(caller, now.mono_ms)?;
        let rules = Rules { config: &self.config, now_ms: now.wall_ms };
        let messages = send::read(request, caller, connection, rules)?;
        let _room = self.room_for(&messages)?;
        let stored = self.core.call(|reply| Ask::Send(messages, reply)).await??;
        Ok(send::answer(ids.to_vec(), stored, caller))
    }

    /// Room among the sends in flight, until the answer is there.
    fn room_for(&self, send: &SendMessages) -> Result<SemaphorePermit<'_>, Refused> {
        let bytes: usize = send.messages.iter().map(|message| message.body.len()).sum();
        // a request is at most 16 MiB
        let kib = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX);
        match self.sends.try_acquire_many(kib) {
            Ok(room) => Ok(room),
            Err(_) => refuse(Code::TooManyRequests, "too many bytes of sends are waiting for their answer"),
        }
    }

    pub(super) async fn receive(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
    ) -> Result<Delivery, Refused> {
        let now = self.now();
        let queue = request.message_queue.as_ref();
        let resource = queue.and_then(|queue| queue.topic.as_ref());
        let topic = names::topic(resource)?;
        let group = names::group(request.group.as_ref())?;
        let subscription = subscription(topic.clone(), request.filter_expression.as_ref(), now.wall_ms)?;
        let invisible_ms = receive::invisible_ms(&request, &self.config)?;
        let (connection, news) =
            self.clients.subscribe(caller, &group, request.auto_renew, &subscription, now.mono_ms)?;
        if let Some(heartbeat) = news {
            self.tell(heartbeat).await?;
        }
        let ask = ReceiveMessages {
            group: group.clone(),
            topic: topic.clone(),
            queue_id: receive::queue_id(&request),
            client: caller.client.clone(),
            connection,
            max_messages: receive::batch_size(&request),
            invisible_ms,
            auto_renew: request.auto_renew,
            subscription,
            wait_ms: receive::hold_ms(&request, caller, &self.config),
            attempt_id: Name::from(request.attempt_id.as_deref().unwrap_or_default()),
        };
        let core = self.core.clone();
        let (client, body_plain_max) = (caller.client.clone(), self.config.body_max_bytes);
        let namespace = resource.map(|resource| resource.resource_namespace.clone()).unwrap_or_default();
        let lend = move |messages: Vec<LeasedMessage>| {
            let waiting = messages.into();
            let handed_out = Vec::new();
            Lent { waiting, handed_out, core, group, topic, client, namespace, invisible_ms, body_plain_max }
        };
        let (sender, receiver) = oneshot::channel();
        // An answer nobody hears, because the client hung up, is dropped with its messages: that gives them back.
        let reply = Box::new(move |answer: Answer<_>| drop(sender.send(answer.map(lend))));
        self.core.submit(Ask::Receive(ask, reply))?;
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(NotTaken::Stopped.into()),
            answer = receiver => match answer {
                Ok(lent) => Ok(Delivery::of(lent?, caller, self.now().wall_ms)),
                // the core dropped what waits on this connection: the client said good-bye
                Err(_) => Ok(Delivery::nothing(caller)),
            },
        }
    }

    pub(super) async fn ack(
        &self,
        caller: &Caller,
        request: AckMessageRequest,
    ) -> Result<AckMessageResponse, Refused> {
        let ask = settle::ack(&request, caller)?;
        let answers = self.core.call(|reply| Ask::Ack(ask, reply)).await?;
        Ok(settle::acked(request, answers, caller))
    }

    pub(super) async fn change_invisible(
        &self,
        caller: &Caller,
        request: &ChangeInvisibleDurationRequest,
    ) -> Result<String, Refused> {
        let ask = settle::change_invisible(request, caller, &self.config)?;
        Ok(self.core.call(|reply| Ask::ChangeInvisible(ask, reply)).await??)
    }

    pub(super) async fn dead_letter(
        &self,
        caller: &Caller,
        request: ForwardMessageToDeadLetterQueueRequest,
    ) -> Result<(), Refused> {
        let ask = settle::dead_letter(request, caller)?;
        Ok(self.core.call(|reply| Ask::ForwardToDeadLetter(ask, reply)).await??)
    }

    /// Fine even for a client that declared nothing: after a restart of ours it only has to be heard.
    pub(super) async fn beat(&self, caller: &Caller) -> Result<(), Refused> {
        match self.clients.beat(caller, self.now().mono_ms)? {
            Some(heartbeat) => self.tell(heartbeat).await,
            None => Ok(()),
        }
    }

    pub(super) async fn terminate(&self, caller: &Caller) -> Result<(), Refused> {
        let none = Name::from("");
        let leave =
            Unregister { client: caller.client.clone(), producer_group: none.clone(), consumer_group: none };
        self.core.call(|reply| Ask::Unregister(leave, reply)).await?;
        if let Some(connection) = self.clients.forget(&caller.client) {
            self.core.submit(Ask::Disconnected(connection))?;
        }
        Ok(())
    }
}

/// Names with a meaning (`%RETRY%…`, the stand-in topic) are not a user's to create.
fn may_be_created(name: &str) -> bool {
    !name.starts_with('%') && name != AUTO_CREATE_TOPIC
}
