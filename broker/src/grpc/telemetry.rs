//! Owns the telemetry stream of a client: its settings come in, the merged ones go out, and as long as it is open the client is
//! there. The answer's headers leave when the stream is made, before anything is read: the Rust SDK waits for them.

use super::caller::Caller;
use super::edge::Edge;
use super::proto::telemetry_command::Command;
use super::proto::{Language, Settings, TelemetryCommand};
use super::settings;
use super::status::{Refused, ok};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming};

/// Commands waiting for a client that does not read; more, and its stream ends.
pub(super) const COMMANDS_WAITING_MAX: usize = 16;
/// The Node SDK forgets settings that arrive before it waits for them, and then waits for minutes: they are sent once more.
const SEND_AGAIN_AFTER: Duration = Duration::from_secs(1);

type Commands = mpsc::Sender<Result<TelemetryCommand, Status>>;

/// Serves one stream to its end.
pub(super) async fn converse(
    edge: Arc<Edge>,
    caller: Caller,
    mut inbound: Streaming<TelemetryCommand>,
    outbound: Commands,
) {
    if let Err(refused) = edge.clients.stream_opened(&caller, edge.now().mono_ms) {
        return refuse(&outbound, caller.language, &refused);
    }
    let _open = OpenStream { edge: &edge, caller: &caller };
    let mut again: Option<(Pin<Box<Sleep>>, TelemetryCommand)> = None;
    loop {
        tokio::select! {
            () = edge.shutdown.cancelled() => return,
            () = outbound.closed() => return,
            () = due(&mut again) => {
                let Some((_, command)) = again.take() else { continue };
                if outbound.try_send(Ok(command)).is_err() {
                    return;
                }
            }
            command = inbound.message() => {
                let settings = match command {
                    Ok(Some(TelemetryCommand { command: Some(Command::Settings(settings)), .. })) => settings,
                    // results of commands that are never sent from here
                    Ok(Some(_)) => continue,
                    Ok(None) => return until_closed(&edge, &outbound).await,
                    Err(_) => return,
                };
                let answer = answer(&edge, &caller, settings).await;
                again = Some((Box::pin(sleep(SEND_AGAIN_AFTER)), answer.clone()));
                if outbound.try_send(Ok(answer)).is_err() {
                    return;
                }
            }
        }
    }
}

async fn due(again: &mut Option<(Pin<Box<Sleep>>, TelemetryCommand)>) {
    match again {
        Some((sleep, _)) => sleep.as_mut().await,
        None => pending().await,
    }
}

/// The client has nothing more to say but still listens.
async fn until_closed(edge: &Edge, outbound: &Commands) {
    tokio::select! {
        () = edge.shutdown.cancelled() => {}
        () = outbound.closed() => {}
    }
}

/// The core hears of the group before the client does, so that what is sent after the client is ready is the group's.
async fn answer(edge: &Edge, caller: &Caller, settings: Settings) -> TelemetryCommand {
    let language = settings::language(&settings, caller.language);
    let (status, fifo) = match edge.declare(caller, language, &settings).await {
        Ok(fifo) => (ok(), fifo),
        Err(refused) => {
            tracing::warn!(client = %caller.client, %refused, "settings of a client are refused");
            (refused.status(language), false)
        }
    };
    let merged = settings::merged(settings, language, fifo, &edge.config);
    TelemetryCommand { status: Some(status), command: Some(Command::Settings(merged)) }
}

/// A stream that ends with the reason.
pub(super) fn refuse(outbound: &Commands, language: Language, refused: &Refused) {
    let command = TelemetryCommand { status: Some(refused.status(language)), command: None };
    // the channel is new, so there is room, or the client has gone
    drop(outbound.try_send(Ok(command)));
}

struct OpenStream<'a> {
    edge: &'a Edge,
    caller: &'a Caller,
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.edge.clients.stream_ended(&self.caller.client, self.edge.now().mono_ms);
    }
}
