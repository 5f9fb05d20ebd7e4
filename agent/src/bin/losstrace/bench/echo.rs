//! Owns the bare echoes: servers that read requests and answer them without doing anything. What a request costs on this machine
//! before any broker: what the edges cost is measured against it.

use super::options::Protocol;
use anyhow::{Context as _, Result};
use broker::grpc::proto::{Code, SendMessageRequest, SendMessageResponse, SendResultEntry, Status};
use bytes::BytesMut;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic_prost::ProstCodec;
use wire::code::response;
use wire::command::Command;
use wire::frame::FrameDecoder;

/// Serves until it is ended.
pub(crate) fn run(address: SocketAddr, protocol: Protocol) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match protocol {
            Protocol::Remoting => serve_remoting(address).await,
            Protocol::Grpc => {
                let server = Server::builder().tcp_nodelay(true).add_service(Echo);
                server.serve(address).await.context("the echo ended")
            }
        }
    })
}

async fn serve_remoting(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // a client that goes in the middle of a request ends its task, and nothing else
        tokio::spawn(async move { drop(answer_all(stream).await) });
    }
}

/// Reads commands and says that each was carried out.
async fn answer_all(mut stream: TcpStream) -> Result<()> {
    let (mut arrived, mut leaving) = (BytesMut::with_capacity(16 * 1024), BytesMut::new());
    let frames = FrameDecoder::default();
    while stream.read_buf(&mut arrived).await? > 0 {
        while let Some(frame) = frames.decode(&mut arrived)? {
            let command = Command::decode(frame)?;
            Command::response_to(&command, response::SUCCESS).encode(&mut leaving);
        }
        stream.write_all(&leaving).await?;
        leaving.clear();
    }
    Ok(())
}

/// gRPC; takes any call for a send.
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
