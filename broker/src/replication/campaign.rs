//! Makes a member master: asks the others how they stand, takes their promise to follow nobody below a new epoch number, and copies
//! what the one with the most has, before any write is taken. Never opens the epoch itself. Called by the server, beside a core
//! that still follows nobody. The rules are in [`super::election`].

use super::election::{Opening, Outcome, Rules};
use super::follow::{self, CONNECT_MAX};
use super::frame::{Ask, Message, Standing};
use super::{Progress, StreamError, read_message, write_bytes};
use crate::api::Request;
use crate::core::Core;
use crate::handle::{CoreHandle, NotTaken};
use crate::replication::master::SharedMandate;
use crate::replication::mastership::Change;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause before everybody is asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// Who stands for master.
pub struct Candidate {
    /// Its core.
    pub core: CoreHandle,
    /// How far its core is.
    pub progress: watch::Receiver<Progress>,
    /// The replica group.
    pub broker_name: String,
    /// Its name.
    pub replica_id: String,
    /// Every other member.
    pub members: Vec<SocketAddr>,
    /// Members that must promise, itself included.
    pub needed: usize,
    /// How long they are waited for; `None`: without limit.
    pub patience: Option<Duration>,
    /// Whoever is master now.
    pub forced: bool,
    /// Where its own promise is kept.
    pub mandate: SharedMandate,
}

/// Stands for master until it is one, or until another member is found to be.
pub async fn stand(candidate: Candidate) -> Result<Change, StreamError> {
    let begun = tokio::time::Instant::now();
    let mut told = String::new();
    loop {
        let out_of_patience = candidate.patience.is_some_and(|most| begun.elapsed() >= most);
        let why = match candidate.round(out_of_patience).await {
            Ok(Round::Ended(change)) => return Ok(change),
            Ok(Round::TooFew(seen)) => {
                format!("{seen} of {} members needed are in reach", candidate.needed)
            }
            Err(StreamError::Core(error)) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        if why != told {
            tracing::warn!(why, "no writes are taken yet");
            told = why;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Round {
    Ended(Change),
    TooFew(usize),
}

impl Candidate {
    async fn round(&self, out_of_patience: bool) -> Result<Round, StreamError> {
        let rules = Rules { needed: self.needed, forced: self.forced, out_of_patience };
        let mine = self.look(|core| core.standing()).await?;
        let others = self.ask_all(0).await;
        let standings: Vec<&Standing> = others.iter().map(|(_, other)| other).collect();
        let number = match rules.open(&mine, &standings) {
            Opening::Follow => {
                tracing::warn!("another member is master: this one follows it");
                return Ok(Round::Ended(Change::Follow));
            }
            Opening::TooFew(seen) => return Ok(Round::TooFew(seen)),
            Opening::Promise(number) => number,
        };
        // our own promise first: it is one of those that count
        if !self.look(move |core| core.promise(number)).await? {
            return Ok(Round::TooFew(0));
        }
        self.mandate.change(|mandate| mandate.promised = mandate.promised.max(number))?;
        let answers = self.ask_all(number).await;
        match rules.count(&mine, number, &answers) {
            Outcome::TooFew(seen) => return Ok(Round::TooFew(seen)),
            Outcome::Elected => {}
            Outcome::CopyFirst((address, other)) => {
                tracing::warn!(member = %address, theirs = other.log.end.0, ours = mine.log.end.0,
                    "another member has more: it is copied first");
                follow::copy(&self.core, *address, self.progress.clone(), other.clone()).await?;
            }
        }
        tracing::info!(number, "enough members have promised");
        Ok(Round::Ended(Change::Elected(number)))
    }

    async fn look<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, NotTaken> {
        self.core.call(|reply| Request::Look(Box::new(move |core, _| reply(what(core))))).await
    }

    /// Whoever answers; who does not is not in reach.
    async fn ask_all(&self, number: u64) -> Vec<(SocketAddr, Standing)> {
        let mut asking = JoinSet::new();
        for address in self.members.iter().copied() {
            let (broker_name, replica_id) = (self.broker_name.clone(), self.replica_id.clone());
            let ask = Ask { broker_name, replica_id, number };
            asking.spawn(async move { (address, ask_one(address, ask).await) });
        }
        let mut answers = Vec::new();
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok((address, Ok(standing))) => answers.push((address, standing)),
                Ok((address, Err(error))) => tracing::debug!(member = %address, %error, "no answer"),
                Err(error) => tracing::error!(%error, "asking a member panicked"),
            }
        }
        answers
    }
}

async fn ask_one(address: SocketAddr, ask: Ask) -> Result<Standing, StreamError> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
    let (mut from, mut to) = connecting.await.map_err(|_| StreamError::Silence)??.into_split();
    write_bytes(&mut to, &Message::Ask(ask).encode()).await?;
    match read_message(&mut from).await? {
        Message::Standing(standing) => Ok(standing),
        Message::Refused(why) => Err(StreamError::Refused(why)),
        _ => Err(StreamError::Unexpected),
    }
}
