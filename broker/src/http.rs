//! Owns what machines ask of the broker over HTTP: metrics, health, its part in the replica group; and what is told to it here: to
//! become master, and to store again what a fail-over took. Answers come from the core between two turns; a core that does not answer
//! in time is not ready.

use crate::api::{Answer, Query, QueryAnswer, Refusal, Reinjected, ReplyFn, Request};
use crate::core::Core;
use crate::handle::CoreHandle;
use crate::metrics::{Metrics, MetricsError, Observed};
use crate::remoting::RemotingStats;
use crate::replication::mastership::Change;
use axum::body::Body;
use axum::extract::{Query as Params, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// The core answers within milliseconds, or something is wrong.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// What is stored again is answered when it is as durable as promised; a replica that is slow has so long.
const REINJECT_ANSWER_MAX: Duration = Duration::from_secs(20);
/// A body that takes longer keeps others from theirs.
const REINJECT_BODY_TIME: Duration = Duration::from_secs(10);
/// Largest body of a request to store messages again: more than one message of any size.
pub const REINJECT_BODY_MAX: usize = 16 << 20;
/// Most scrapes at the same time; each one is a question to the core.
const SCRAPES_MAX: usize = 8;
/// Connections that are still open so long after the shutdown are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// The classic text format, which every Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why the server stopped, or never started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The core went before it could say who it is.
    #[error("the broker is stopping")]
    Stopping,
    /// Metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The socket failed.
    #[error("http: {0}")]
    Io(#[from] std::io::Error),
}

/// Why an answer has to wait.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("the core does not answer")]
    Silent,
    #[error("too many questions at the same time")]
    Busy,
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl IntoResponse for NotReady {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{self}\n")).into_response()
    }
}

/// What is asked and told through these doors.
pub struct Doors {
    /// The core.
    pub core: CoreHandle,
    /// Counts of the remoting edge.
    pub remoting: Arc<RemotingStats>,
    /// Hears that this member is to become master.
    pub changes: mpsc::Sender<Change>,
}

struct Door {
    core: CoreHandle,
    remoting: Arc<RemotingStats>,
    changes: mpsc::Sender<Change>,
    metrics: Metrics,
    scrapes: Semaphore,
    /// One request to store messages again at a time: each holds its body in memory.
    reinjections: Semaphore,
}

/// A member's part, as `GET /role` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// `ASYNC_MASTER`, `SYNC_MASTER` or `SLAVE`.
    pub role: String,
    /// Whether it takes writes.
    pub is_master: bool,
    /// The epoch of its log.
    pub epoch: u64,
    /// One past the last byte of its log.
    pub log_end: u64,
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    doors: Doors,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let Doors { core, remoting, changes } = doors;
    // the first turn may take as long as it likes
    let ask = |core: &mut Core| (core.config().cluster.clone(), core.config().broker_name.clone());
    let who = |reply: ReplyFn<(String, String)>| Request::Look(Box::new(move |core, _| reply(ask(core))));
    let (cluster, broker_name) = core.call(who).await.map_err(|_| ServeError::Stopping)?;
    let metrics = Metrics::new(prometheus::Registry::new(), &cluster, &broker_name)?;
    let door = Arc::new(Door {
        core,
        remoting,
        changes,
        metrics,
        scrapes: Semaphore::new(SCRAPES_MAX),
        reinjections: Semaphore::new(1),
    });
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/role", get(role))
        .route("/promote", post(promote))
        .route("/reinject", post(reinject))
        .with_state(door);
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = server.into_future() => served?,
        () = grace => {}
    }
    Ok(())
}

/// `/metrics`.
async fn show_metrics(State(door): State<Arc<Door>>) -> Result<Response, NotReady> {
    let _permit = door.scrapes.try_acquire().map_err(|_| NotReady::Busy)?;
    let mut observed = look(&door.core, Observed::of).await?;
    let runtime = answer(door.core.call(|reply| Request::Query(Query::Runtime, reply))).await?;
    if let Ok(QueryAnswer::Runtime(runtime)) = runtime {
        observed.disk_ratio = runtime.disk_ratio;
        observed.log_start = runtime.commitlog_min;
        observed.started_ms = runtime.started_ms;
    }
    let text = door.metrics.render(&observed, &door.remoting)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

/// `/healthz`: the process lives.
async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz`: turns are running.
async fn readyz(State(door): State<Arc<Door>>) -> Result<&'static str, NotReady> {
    look(&door.core, |_| ()).await?;
    Ok("ready\n")
}

/// `GET /role`.
async fn role(State(door): State<Arc<Door>>) -> Result<Json<RoleReport>, NotReady> {
    Ok(Json(look(&door.core, RoleReport::of).await?))
}

/// `POST /promote`: this member is to become master. 202: it stands for it from now on; `GET /role` tells when it is. 409: it is.
async fn promote(State(door): State<Arc<Door>>) -> Result<Response, NotReady> {
    let report = look(&door.core, RoleReport::of).await?;
    if report.is_master {
        return Ok((StatusCode::CONFLICT, Json(report)).into_response());
    }
    match door.changes.try_send(Change::Campaign { forced: true }) {
        Ok(()) => Ok((StatusCode::ACCEPTED, Json(report)).into_response()),
        Err(_) => Err(NotReady::Busy),
    }
}

/// How `POST /reinject` is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReinjectParams {
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /reinject`: messages of a log that lost are stored here, those that are not here already. The body is a part of a survivor file;
/// the answer, one outcome a message. 400: the body is damaged, or of another replica group. 413: it is too large, or too slow. 503: not
/// now (a SLAVE, a full disk, another one under way).
async fn reinject(
    State(door): State<Arc<Door>>,
    Params(params): Params<ReinjectParams>,
    body: Body,
) -> Result<Response, NotReady> {
    // before the body is read: it is what must not be in memory many times
    let _permit = door.reinjections.try_acquire().map_err(|_| NotReady::Busy)?;
    let reading = tokio::time::timeout(REINJECT_BODY_TIME, axum::body::to_bytes(body, REINJECT_BODY_MAX));
    let Ok(Ok(body)) = reading.await else {
        let text = format!("the body is over {REINJECT_BODY_MAX} bytes, or does not come\n");
        return Ok((StatusCode::PAYLOAD_TOO_LARGE, text).into_response());
    };
    let request = match crate::survivors::received(&body, params.dry_run) {
        Ok(request) => request,
        Err(error) => return Ok((StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()),
    };
    let ask = |reply: ReplyFn<Answer<Vec<Reinjected>>>| Request::Reinject(request, reply);
    let asked = tokio::time::timeout(REINJECT_ANSWER_MAX, door.core.call(ask)).await;
    Ok(match asked {
        Ok(Ok(Ok(outcomes))) => Json(outcomes).into_response(),
        Ok(Ok(Err(refusal @ Refusal::BadParameter(_)))) => {
            (StatusCode::BAD_REQUEST, format!("{refusal}\n")).into_response()
        }
        Ok(Ok(Err(refusal))) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response(),
        Ok(Err(_)) | Err(_) => return Err(NotReady::Silent),
    })
}

impl RoleReport {
    fn of(core: &Core) -> RoleReport {
        let standing = core.standing();
        RoleReport {
            role: core.config().broker_role.text().to_owned(),
            is_master: standing.is_master,
            epoch: standing.log.epochs.last().map_or(0, |(epoch, _)| epoch.number),
            log_end: standing.log.end.0,
        }
    }
}

/// Runs `ask` on the core, between two turns.
async fn look<T: Send + 'static>(
    core: &CoreHandle,
    ask: impl FnOnce(&Core) -> T + Send + 'static,
) -> Result<T, NotReady> {
    let look = |reply: ReplyFn<T>| Request::Look(Box::new(move |core: &mut Core, _| reply(ask(core))));
    answer(core.call(look)).await
}

async fn answer<T>(asked: impl Future<Output = Result<T, crate::handle::NotTaken>>) -> Result<T, NotReady> {
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(NotReady::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::CoreParts;
    use lifecycle::clock::Now;
    use lifecycle::identity::Incarnation;
    use store::disk_sim::SimDisk;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        ask_by("GET", address, path).await
    }

    async fn ask_by(method: &str, address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_readiness_come_from_the_core_and_stop_with_it() {
        let parts = CoreParts {
            disk: Arc::new(SimDisk::new()),
            dir: "/data".into(),
            config: Default::default(),
            incarnation: Incarnation([1; 16]),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            boot: None,
            mandate: None,
        };
        let now = Now { mono_ms: 1, wall_ms: 1_700_000_000_000 };
        let (mut core, _) = Core::open(parts, now).unwrap();
        let handle = CoreHandle::new();
        let turns = handle.clone();
        let turning = tokio::spawn(async move {
            let mut requests = Vec::new();
            loop {
                turns.arrived().await;
                turns.drain(&mut requests);
                core.turn(now, &mut requests, &mut Vec::new());
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (changes, mut changed) = mpsc::channel(1);
        let doors = Doors { core: handle.clone(), remoting: Arc::default(), changes };
        let served = tokio::spawn(serve(listener, doors, shutdown.clone()));

        let metrics = ask(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        let labels = r#"{cluster="DefaultCluster",node_id="losstrace",node_type="broker"}"#;
        for line in [
            format!("rocketmq_topic_number{labels} 1"),
            format!("losstrace_broker_epoch{labels} 1"),
            format!("losstrace_broker_start_time_seconds{labels} 1700000000"),
        ] {
            assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
        }
        assert!(!metrics.contains(&format!("losstrace_broker_journal_bytes{labels} 0")), "{metrics}");
        assert!(ask(address, "/role").await.contains(r#""role":"ASYNC_MASTER","is_master":true,"epoch":1"#));
        assert!(ask_by("POST", address, "/promote").await.starts_with("HTTP/1.1 409"));
        assert!(changed.try_recv().is_err(), "a master is not promoted");
        assert!(
            ask_by("POST", address, "/reinject?dry_run=true").await.starts_with("HTTP/1.1 400"),
            "no body"
        );
        assert!(
            ask_by("POST", address, "/reinject?dry=true").await.starts_with("HTTP/1.1 400"),
            "unknown word"
        );
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.ends_with("ready\n"));
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        turning.abort();
        handle.close();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/metrics").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        shutdown.cancel();
        served.await.unwrap().unwrap();
    }
}
