//! Owns a bare gRPC echo: a server that answers sends without doing anything. What a call costs before any broker: the gRPC
//! edge's budget is measured against it.

use anyhow::{Context as _, Result};
use broker::grpc::proto::{Code, SendMessageRequest, SendMessageResponse, SendResultEntry, Status};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic_prost::ProstCodec;

/// Serves until it is ended.
pub(crate) fn run(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::builder().tcp_nodelay(true).add_service(Echo);
    runtime.block_on(server.serve(address)).context("the echo ended")
}

/// Takes any call for a send.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "apache.rocketmq.v2.MessagingService";
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(Answer, request).await) })
    }
}

/// Says that everything was stored.
struct Answer;

impl UnaryService<SendMessageRequest> for Answer {
    type Response = SendMessageResponse;
    type Future = Answering<tonic::Response<SendMessageResponse>, tonic::Status>;

    fn call(&mut self, request: tonic::Request<SendMessageRequest>) -> Self::Future {
        let ok = Some(Status { code: Code::Ok.into(), message: "OK".to_owned() });
        let entry = |message: &broker::grpc::proto::Message| SendResultEntry {
            status: ok.clone(),
            message_id: message.system_properties.as_ref().map_or_else(String::new, |s| s.message_id.clone()),
            ..SendResultEntry::default()
        };
        let entries = request.get_ref().messages.iter().map(entry).collect();
        Box::pin(async move { Ok(tonic::Response::new(SendMessageResponse { status: ok, entries })) })
    }
}
