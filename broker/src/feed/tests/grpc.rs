//! The same over loopback, with the generated client.

use super::*;
use proto::feed_client::FeedClient;
use proto::locate_request::What;
use tonic::transport::Channel;

async fn served(bench: &Bench) -> (FeedClient<Channel>, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = serve(listener, bench.feed.clone(), shutdown.clone());
    let server = tokio::spawn(async move { server.await.unwrap() });
    let client = FeedClient::connect(format!("http://{address}")).await.unwrap();
    (client.max_decoding_message_size(MESSAGE_BYTES_MAX), shutdown, server)
}

fn after(run: u8, sequence: u64) -> Option<proto::Position> {
    Some(proto::Position { incarnation: vec![run; 16].into(), sequence })
}

fn read(after: Option<proto::Position>) -> proto::ReadRequest {
    proto::ReadRequest { reader: "agent".into(), after, batch_bytes_max: 0 }
}

#[tokio::test]
async fn frames_cross_a_restart_and_go_on_live() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let last = bench.head();
    let mut bench = bench.restart();
    let (mut client, shutdown, server) = served(&bench).await;
    let mut stream = client.read(read(None)).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!((first.broker_name.as_str(), first.first_sequence), ("b", 1));
    assert_eq!(first.incarnation.as_ref(), [1; 16]);
    let mut decoder = FrameDecoder::new();
    for frame in &first.frames {
        decoder.decode(frame).unwrap();
    }
    let end = stream.message().await.unwrap().unwrap();
    let run_end = proto::RunEnd { last_sequence: last, next_incarnation: vec![2; 16].into() };
    assert_eq!(end.run_end, Some(run_end));
    let live = stream.message().await.unwrap().unwrap();
    assert_eq!((live.incarnation.as_ref(), live.first_sequence), ([2u8; 16].as_slice(), 1));
    bench.send("t", "m2");
    let more = stream.message().await.unwrap().unwrap();
    assert_eq!((more.first_sequence, more.head_sequence), (bench.head(), bench.head()));
    shutdown.cancel();
    assert_eq!(stream.message().await.unwrap(), None, "the stream ends when the server is told to stop");
    server.await.unwrap();
}

#[tokio::test]
async fn questions_and_their_refusals() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let (client, ..) = served(&bench).await;

    let mut asking = client.clone();
    let question = async move {
        let request = proto::SnapshotRequest { reader: "agent".into() };
        let mut stream = asking.snapshot(request).await.unwrap().into_inner();
        let mut batches = Vec::new();
        while let Some(batch) = stream.message().await.unwrap() {
            batches.push(batch);
        }
        batches
    };
    let batches = bench.answered(question).await;
    assert_eq!(batches[0].position, after(1, bench.head()));
    assert_eq!((batches[0].oldest.clone(), batches[0].history_complete), (after(1, 0), true));
    assert!(batches.iter().enumerate().all(|(index, batch)| batch.last == (index + 1 == batches.len())));
    let frames: Vec<_> = batches.iter().flat_map(|batch| &batch.frames).collect();
    assert!(FrameDecoder::new().decode(frames[0]).unwrap().snapshot);

    let mut asking = client.clone();
    let request = proto::LocateRequest { what: Some(What::Id("m1".into())), ..Default::default() };
    let located = bench.answered(async move { asking.locate(request).await.unwrap().into_inner() }).await;
    assert_eq!((located.places.len(), located.complete, located.as_of), (1, true, after(1, bench.head())));
    let mut asking = client.clone();
    let request = proto::InspectRequest { identity: located.places[0].identity };
    let inspected = bench.answered(async move { asking.inspect(request).await.unwrap().into_inner() }).await;
    assert_eq!((inspected.found, inspected.body_sha256.len()), (true, 32));
    assert_eq!(inspected.place.unwrap(), located.places[0]);

    let mut asking = client.clone();
    let request = proto::ConfirmRequest { reader: "agent".into(), position: after(1, 1) };
    asking.confirm(request).await.unwrap();
    assert_eq!(bench.feed.min_confirmed(), Some(position(1, 1)));

    let code = |answer: Result<_, tonic::Status>| answer.map(drop).unwrap_err().code();
    assert_eq!(code(asking.read(read(after(9, 0))).await), tonic::Code::NotFound);
    let short = Some(proto::Position { incarnation: vec![1; 15].into(), sequence: 0 });
    assert_eq!(code(asking.read(read(short)).await), tonic::Code::InvalidArgument);
    let nothing = asking.locate(proto::LocateRequest::default()).await;
    assert_eq!(nothing.unwrap_err().code(), tonic::Code::InvalidArgument);
}
