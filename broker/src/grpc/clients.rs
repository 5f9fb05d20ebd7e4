//! Owns who is there: each client's connection number, its streams, what it declared, and when it was last heard. A client is
//! its id, not a socket: SDKs spread one client over several connections, and several calls over one. Says what the core is to
//! be told; never tells it itself. Called by every call of the edge and by the watch.

use super::caller::{Caller, language_name};
use super::proto::{Code, Language};
use super::settings::{Declared, TOPICS_PER_CLIENT_MAX, consumer};
use super::status::{Refused, refuse};
use super::{CONNECTION_ID_FIRST, GrpcConfig};
use crate::api::{ConnectionId, ConsumerDeclaration, Heartbeat, Subscription};
use lifecycle::identity::Name;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most clients known at a time.
pub(super) const CLIENTS_MAX: usize = 50_000;
/// What gRPC clients are to operators who ask for a version: RocketMQ's V5_0_0.
const CLIENT_VERSION: i32 = 413;

pub(super) struct Clients {
    idle_ms: u64,
    stream_grace_ms: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: BTreeMap<Name, Client>,
    connections_opened: u64,
}

struct Client {
    connection: ConnectionId,
    language: Language,
    declared: Declared,
    /// Whether the core has been told of the present declaration on the present connection.
    told: bool,
    streams: usize,
    /// When the last stream ended; `None` while one is open, and before the first.
    stream_ended_ms: Option<u64>,
    heard_ms: u64,
}

impl Clients {
    pub(super) fn new(config: &GrpcConfig) -> Self {
        Clients {
            idle_ms: config.client_idle_ms,
            stream_grace_ms: config.stream_grace_ms,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a client was heard.
    pub(super) fn heard(&self, caller: &Caller, now_ms: u64) -> Result<ConnectionId, Refused> {
        self.state().client(caller, now_ms).map(|client| client.connection)
    }

    /// The client's settings: all it declares. The answer is for the core.
    pub(super) fn declare(
        &self,
        caller: &Caller,
        language: Language,
        mut declared: Declared,
        now_ms: u64,
    ) -> Result<Heartbeat, Refused> {
        let mut state = self.state();
        let client = state.client(caller, now_ms)?;
        if let (Some(new), Some(old)) = (&mut declared.consumer, &client.declared.consumer) {
            keep_versions(new, old);
        }
        client.language = language;
        client.declared = declared;
        client.told = true;
        Ok(client.heartbeat(&caller.client))
    }

    /// What a receive shows of a subscription. Simple consumers subscribe after they sent settings, and after our restart the
    /// Python SDK receives for minutes before it sends them again. The heartbeat is for the core, when this was news.
    pub(super) fn subscribe(
        &self,
        caller: &Caller,
        group: &Name,
        push: bool,
        subscription: &Subscription,
        now_ms: u64,
    ) -> Result<(ConnectionId, Option<Heartbeat>), Refused> {
        let mut state = self.state();
        let client = state.client(caller, now_ms)?;
        let declared =
            client.declared.consumer.get_or_insert_with(|| consumer(group.clone(), push, Vec::new()));
        let mut news = !client.told;
        // a client that receives for another group than it declared is served, but is no member of it
        if declared.group == *group {
            news |= note(&mut declared.subscriptions, subscription)?;
        }
        client.told = true;
        Ok((client.connection, news.then(|| client.heartbeat(&caller.client))))
    }

    /// What the core is to hear at each heartbeat call; `None` when the client declared nothing yet.
    pub(super) fn beat(&self, caller: &Caller, now_ms: u64) -> Result<Option<Heartbeat>, Refused> {
        let mut state = self.state();
        let client = state.client(caller, now_ms)?;
        if client.declared == Declared::default() {
            return Ok(None);
        }
        client.told = true;
        Ok(Some(client.heartbeat(&caller.client)))
    }

    /// A telemetry stream opened.
    pub(super) fn stream_opened(&self, caller: &Caller, now_ms: u64) -> Result<(), Refused> {
        let mut state = self.state();
        let client = state.client(caller, now_ms)?;
        client.streams += 1;
        client.stream_ended_ms = None;
        Ok(())
    }

    /// A telemetry stream ended.
    pub(super) fn stream_ended(&self, client: &Name, now_ms: u64) {
        // a client that said good-bye is already forgotten, and may be back with a new stream
        if let Some(client) = self.state().clients.get_mut(client) {
            client.streams = client.streams.saturating_sub(1);
            if client.streams == 0 {
                client.stream_ended_ms = Some(now_ms);
            }
        }
    }

    /// The client said good-bye; its connection is over.
    pub(super) fn forget(&self, client: &Name) -> Option<ConnectionId> {
        self.state().clients.remove(client).map(|client| client.connection)
    }

    /// The connections of clients that went without a word since the last sweep.
    pub(super) fn sweep(&self, now_ms: u64) -> Vec<ConnectionId> {
        let mut state = self.state();
        let State { clients, connections_opened } = &mut *state;
        let mut gone = Vec::new();
        clients.retain(|_, client| {
            if client.heard_ms.saturating_add(self.idle_ms) <= now_ms {
                gone.push(client.connection);
                return false;
            }
            if client
                .stream_ended_ms
                .is_some_and(|ended| ended.saturating_add(self.stream_grace_ms) <= now_ms)
            {
                // What it declared is kept: if only the stream broke, the next heartbeat brings the client back.
                gone.push(client.connection);
                client.connection = open_connection(connections_opened);
                client.stream_ended_ms = None;
                client.told = false;
            }
            true
        });
        gone
    }
}

impl State {
    /// The client, new or known; heard now.
    fn client(&mut self, caller: &Caller, now_ms: u64) -> Result<&mut Client, Refused> {
        if !self.clients.contains_key(&caller.client) {
            if self.clients.len() >= CLIENTS_MAX {
                return refuse(Code::TooManyRequests, format!("{CLIENTS_MAX} clients are connected"));
            }
            let connection = open_connection(&mut self.connections_opened);
            self.clients.insert(caller.client.clone(), Client::new(connection, caller.language, now_ms));
        }
        match self.clients.get_mut(&caller.client) {
            Some(client) => {
                client.heard_ms = now_ms;
                Ok(client)
            }
            None => refuse(Code::InternalError, "a client vanished while it was noted"),
        }
    }
}

fn open_connection(opened: &mut u64) -> ConnectionId {
    let connection = ConnectionId(CONNECTION_ID_FIRST + *opened);
    *opened += 1;
    connection
}

impl Client {
    fn new(connection: ConnectionId, language: Language, now_ms: u64) -> Client {
        Client {
            connection,
            language,
            declared: Declared::default(),
            told: false,
            streams: 0,
            stream_ended_ms: None,
            heard_ms: now_ms,
        }
    }

    fn heartbeat(&self, id: &Name) -> Heartbeat {
        Heartbeat {
            client: id.clone(),
            connection: self.connection,
            language: language_name(self.language),
            version: CLIENT_VERSION,
            // a gRPC producer has no group: its topics stand in for it, as in RocketMQ's proxy
            producer_groups: self.declared.producer_topics.clone(),
            consumers: self.declared.consumer.iter().cloned().collect(),
            notify: None,
        }
    }
}

/// A subscription that did not change keeps its version, however often it is declared.
fn keep_versions(new: &mut ConsumerDeclaration, old: &ConsumerDeclaration) {
    for subscription in &mut new.subscriptions {
        let same = old.subscriptions.iter().find(|old| is_same(old, subscription));
        if let Some(old) = same {
            subscription.version = old.version;
        }
    }
}

fn is_same(one: &Subscription, other: &Subscription) -> bool {
    one.topic == other.topic
        && one.expression == other.expression
        && one.expression_type == other.expression_type
}

/// Puts a subscription in the place of the topic's former one; true when that changed something.
fn note(known: &mut Vec<Subscription>, subscription: &Subscription) -> Result<bool, Refused> {
    let Some(at) = known.iter().position(|known| known.topic == subscription.topic) else {
        if known.len() >= TOPICS_PER_CLIENT_MAX {
            return refuse(
                Code::BadRequest,
                format!("more than {TOPICS_PER_CLIENT_MAX} topics for one client"),
            );
        }
        known.push(subscription.clone());
        return Ok(true);
    };
    let news = !is_same(&known[at], subscription);
    if news {
        known[at] = subscription.clone();
    }
    Ok(news)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::settings;

    const GRACE: u64 = 3_000;
    const IDLE: u64 = 120_000;

    fn clients() -> Clients {
        Clients::new(&GrpcConfig { client_idle_ms: IDLE, stream_grace_ms: GRACE, ..GrpcConfig::default() })
    }

    fn caller(id: &str) -> Caller {
        Caller {
            client: Name::from(id),
            language: Language::Python,
            address: "127.0.0.1:9".parse().unwrap(),
            timeout_ms: None,
        }
    }

    fn subscription(topic: &str, expression: &str, version: u64) -> Subscription {
        let filter = super::super::proto::FilterExpression { r#type: 1, expression: expression.to_owned() };
        settings::subscription(Name::from(topic), Some(&filter), version).unwrap()
    }

    fn declaration(expression: &str, version: u64) -> Declared {
        let consumer = consumer(Name::from("g"), true, vec![subscription("t", expression, version)]);
        Declared { producer_topics: Vec::new(), consumer: Some(consumer) }
    }

    #[test]
    fn an_unchanged_subscription_keeps_its_version() {
        let clients = clients();
        let declare = |expression, version| {
            let heartbeat =
                clients.declare(&caller("c"), Language::Python, declaration(expression, version), 0).unwrap();
            heartbeat.consumers[0].subscriptions[0].version
        };
        assert_eq!(declare("a", 10), 10);
        assert_eq!(declare("a", 20), 10);
        assert_eq!(declare("b", 30), 30);
    }

    #[test]
    fn a_stream_that_stays_away_ends_the_connection_and_a_heartbeat_brings_the_client_back() {
        let clients = clients();
        let first = clients.declare(&caller("c"), Language::Python, declaration("a", 1), 0).unwrap();
        clients.stream_opened(&caller("c"), 0).unwrap();
        clients.stream_ended(&caller("c").client, 10);
        assert_eq!(clients.sweep(10 + GRACE - 1), []);
        assert_eq!(clients.sweep(10 + GRACE), [first.connection]);
        assert_eq!(clients.sweep(10 + 2 * GRACE), [], "said once");
        let back = clients.beat(&caller("c"), 10 + 2 * GRACE).unwrap().unwrap();
        assert_ne!(back.connection, first.connection);
        assert_eq!(back.consumers, first.consumers);
    }

    #[test]
    fn a_stream_that_comes_back_in_time_saves_the_connection() {
        let clients = clients();
        let connection = clients.heard(&caller("c"), 0).unwrap();
        clients.stream_opened(&caller("c"), 0).unwrap();
        clients.stream_opened(&caller("c"), 0).unwrap();
        clients.stream_ended(&caller("c").client, 1);
        assert_eq!(clients.sweep(GRACE * 2), [], "the other stream is open");
        clients.stream_ended(&caller("c").client, GRACE * 2);
        clients.stream_opened(&caller("c"), GRACE * 2 + 1).unwrap();
        assert_eq!(clients.sweep(GRACE * 4), []);
        assert_eq!(clients.heard(&caller("c"), GRACE * 4), Ok(connection));
    }

    #[test]
    fn a_silent_client_is_forgotten_even_with_its_stream_open() {
        let clients = clients();
        let connection = clients.heard(&caller("c"), 0).unwrap();
        clients.stream_opened(&caller("c"), 0).unwrap();
        assert_eq!(clients.sweep(IDLE - 1), []);
        assert_eq!(clients.sweep(IDLE), [connection]);
        assert_eq!(clients.forget(&caller("c").client), None);
        clients.stream_ended(&caller("c").client, IDLE);
    }

    #[test]
    fn receives_declare_what_settings_did_not() {
        let clients = clients();
        let subscribe = |topic, expression, now| {
            let subscription = subscription(topic, expression, now);
            clients.subscribe(&caller("c"), &Name::from("g"), false, &subscription, now).unwrap().1
        };
        let told = subscribe("t", "a", 1).expect("news");
        assert_eq!(told.consumers[0].subscriptions, [subscription("t", "a", 1)]);
        assert!(subscribe("t", "a", 2).is_none(), "the same again");
        let told = subscribe("t", "b", 3).expect("another expression");
        assert_eq!(told.consumers[0].subscriptions, [subscription("t", "b", 3)]);
        let told = subscribe("u", "*", 4).expect("another topic");
        assert_eq!(told.consumers[0].subscriptions.len(), 2);
        // after the connection was given up, the core has to hear it again
        clients.stream_opened(&caller("c"), 5).unwrap();
        clients.stream_ended(&caller("c").client, 5);
        assert_eq!(clients.sweep(5 + GRACE).len(), 1);
        assert!(subscribe("u", "*", 6 + GRACE).is_some());
    }

    #[test]
    fn another_group_is_not_mixed_into_the_declared_one() {
        let clients = clients();
        clients.declare(&caller("c"), Language::Python, declaration("a", 1), 0).unwrap();
        let other = subscription("x", "*", 2);
        let (_, news) = clients.subscribe(&caller("c"), &Name::from("h"), false, &other, 2).unwrap();
        assert!(news.is_none());
        let told = clients.beat(&caller("c"), 3).unwrap().unwrap();
        assert_eq!(told.consumers, [declaration("a", 1).consumer.unwrap()]);
    }

    #[test]
    fn nothing_declared_is_nothing_to_tell() {
        let clients = clients();
        assert!(clients.beat(&caller("c"), 0).unwrap().is_none());
        assert!(clients.forget(&caller("c").client).is_some());
    }
}
