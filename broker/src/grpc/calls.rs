//! Owns the service as the protocol names it: finds out who calls, lets the edge do it, and puts a refusal where SDKs look.

use super::caller::Caller;
use super::edge::Edge;
use super::proto::messaging_service_server::MessagingService;
use super::proto::{
    AckMessageRequest, AckMessageResponse, ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse,
    Code, EndTransactionRequest, EndTransactionResponse, ForwardMessageToDeadLetterQueueRequest,
    ForwardMessageToDeadLetterQueueResponse, GetOffsetRequest, GetOffsetResponse, HeartbeatRequest,
    HeartbeatResponse, Language, NotifyClientTerminationRequest, NotifyClientTerminationResponse,
    PullMessageRequest, PullMessageResponse, QueryAssignmentRequest, QueryAssignmentResponse,
    QueryOffsetRequest, QueryOffsetResponse, QueryRouteRequest, QueryRouteResponse, RecallMessageRequest,
    RecallMessageResponse, ReceiveMessageRequest, SendMessageRequest, SendMessageResponse, Status,
    SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse, TelemetryCommand, UpdateOffsetRequest,
    UpdateOffsetResponse,
};
use super::receive::Delivery;
use super::status::{Refused, ok, refuse};
use super::{send, telemetry};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

type Answered<T> = Result<Response<T>, tonic::Status>;

/// Runs a call; `refused` makes the answer that carries nothing but a status.
async fn answer<Q, A, F: Future<Output = Result<A, Refused>>>(
    request: Request<Q>,
    refused: impl FnOnce(Status) -> A,
    call: impl FnOnce(Caller, Q) -> F,
) -> Answered<A> {
    let (language, result) = match Caller::of(&request) {
        Ok(caller) => (caller.language, call(caller, request.into_inner()).await),
        Err(nobody) => (Language::Unspecified, Err(nobody)),
    };
    Ok(Response::new(result.unwrap_or_else(|refusal| refused(refusal.status(language)))))
}

fn unserved<T>(call: &str) -> Result<T, tonic::Status> {
    Err(tonic::Status::unimplemented(format!("{call} is not served")))
}

#[tonic::async_trait]
impl MessagingService for Arc<Edge> {
    type ReceiveMessageStream = Delivery;
    type PullMessageStream = tokio_stream::Empty<Result<PullMessageResponse, tonic::Status>>;
    type TelemetryStream = ReceiverStream<Result<TelemetryCommand, tonic::Status>>;

    async fn query_route(&self, request: Request<QueryRouteRequest>) -> Answered<QueryRouteResponse> {
        let refused = |status| QueryRouteResponse { status: Some(status), message_queues: Vec::new() };
        answer(request, refused, |caller, asked| async move { self.route(&caller, asked).await }).await
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answered<HeartbeatResponse> {
        let plain = |status| HeartbeatResponse { status: Some(status) };
        answer(request, plain, |caller, _| async move { self.beat(&caller).await.map(|()| plain(ok())) })
            .await
    }

    async fn send_message(&self, request: Request<SendMessageRequest>) -> Answered<SendMessageResponse> {
        let refused = |status| SendMessageResponse { status: Some(status), entries: Vec::new() };
        answer(request, refused, |caller, asked| async move {
            let ids = send::message_ids(&asked);
            let sent = self.send(&caller, &ids, asked).await;
            Ok(sent.unwrap_or_else(|refusal| send::refusal(ids, &refusal, &caller)))
        })
        .await
    }

    async fn query_assignment(
        &self,
        request: Request<QueryAssignmentRequest>,
    ) -> Answered<QueryAssignmentResponse> {
        let refused = |status| QueryAssignmentResponse { status: Some(status), assignments: Vec::new() };
        answer(request, refused, |_, asked| self.assignment(asked)).await
    }

    async fn receive_message(&self, request: Request<ReceiveMessageRequest>) -> Answered<Delivery> {
        answer(request, Delivery::only, |caller, asked| async move { self.receive(&caller, asked).await })
            .await
    }

    async fn ack_message(&self, request: Request<AckMessageRequest>) -> Answered<AckMessageResponse> {
        let refused = |status| AckMessageResponse { status: Some(status), entries: Vec::new() };
        answer(request, refused, |caller, asked| async move { self.ack(&caller, asked).await }).await
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answered<ForwardMessageToDeadLetterQueueResponse> {
        let plain = |status| ForwardMessageToDeadLetterQueueResponse { status: Some(status) };
        answer(request, plain, |caller, asked| async move {
            self.dead_letter(&caller, asked).await.map(|()| plain(ok()))
        })
        .await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Answered<ChangeInvisibleDurationResponse> {
        let plain =
            |status, receipt_handle| ChangeInvisibleDurationResponse { status: Some(status), receipt_handle };
        let nobody = |status| plain(status, String::new());
        answer(request, nobody, |caller, asked| async move {
            Ok(match self.change_invisible(&caller, &asked).await {
                Ok(handle) => plain(ok(), handle),
                // the old handle again: the Python SDK takes it before it looks at the status
                Err(refusal) => plain(refusal.status(caller.language), asked.receipt_handle),
            })
        })
        .await
    }

    /// Half messages are refused, so no client has a transaction to end.
    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Answered<EndTransactionResponse> {
        let plain = |status| EndTransactionResponse { status: Some(status) };
        answer(request, plain, |_, _| async {
            refuse(Code::NotImplemented, "transactional messages are not supported")
        })
        .await
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<TelemetryCommand>>,
    ) -> Answered<Self::TelemetryStream> {
        let (commands, outbound) = mpsc::channel(telemetry::COMMANDS_WAITING_MAX);
        let caller = Caller::of(&request);
        match caller {
            Ok(caller) => {
                let stream = telemetry::converse(self.clone(), caller, request.into_inner(), commands);
                tokio::spawn(stream);
            }
            Err(nobody) => telemetry::refuse(&commands, Language::Unspecified, &nobody),
        }
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn notify_client_termination(
        &self,
        request: Request<NotifyClientTerminationRequest>,
    ) -> Answered<NotifyClientTerminationResponse> {
        let plain = |status| NotifyClientTerminationResponse { status: Some(status) };
        answer(request, plain, |caller, _| async move { self.terminate(&caller).await.map(|()| plain(ok())) })
            .await
    }

    async fn pull_message(&self, _: Request<PullMessageRequest>) -> Answered<Self::PullMessageStream> {
        unserved("PullMessage")
    }

    async fn update_offset(&self, _: Request<UpdateOffsetRequest>) -> Answered<UpdateOffsetResponse> {
        unserved("UpdateOffset")
    }

    async fn get_offset(&self, _: Request<GetOffsetRequest>) -> Answered<GetOffsetResponse> {
        unserved("GetOffset")
    }

    async fn query_offset(&self, _: Request<QueryOffsetRequest>) -> Answered<QueryOffsetResponse> {
        unserved("QueryOffset")
    }

    async fn recall_message(&self, _: Request<RecallMessageRequest>) -> Answered<RecallMessageResponse> {
        unserved("RecallMessage")
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<SyncLiteSubscriptionRequest>,
    ) -> Answered<SyncLiteSubscriptionResponse> {
        unserved("SyncLiteSubscription")
    }
}
