//! Owns the judge's questions on their way to the sources and back: every source is asked, and only the answers of all of them
//! together are an answer. Never judges. Used by the loop.

use crate::ingest::pump::CALL_MAX;
use crate::ingest::{LOCATE_LIMIT, LocateBy, LocateQuery, Located, Source, SourceError};
use crate::judge::Answer;
use crate::judge::questions::Question;
use lifecycle::identity::{MessageIdentity, Name};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Questions on their way at once.
pub const ASKING_MAX: usize = 64;

/// Asks sources.
pub struct Asking {
    sources: Arc<Vec<Arc<dyn Source>>>,
    answers: mpsc::Receiver<Answer>,
    sender: mpsc::Sender<Answer>,
    under_way: usize,
}

impl Asking {
    /// Asks these sources.
    pub fn new(sources: Arc<Vec<Arc<dyn Source>>>) -> Self {
        let (sender, answers) = mpsc::channel(ASKING_MAX);
        Asking { sources, answers, sender, under_way: 0 }
    }

    /// How many more may be asked now.
    pub fn room(&self) -> usize {
        ASKING_MAX - self.under_way
    }

    /// Asks, on the runtime of the caller.
    pub fn ask(&mut self, question: Question) {
        self.under_way += 1;
        let (sources, sender) = (self.sources.clone(), self.sender.clone());
        tokio::spawn(async move {
            let answer = ask_all(&sources, question).await;
            // the loop may have stopped
            sender.send(answer).await.ok();
        });
    }

    /// The answers that have come.
    pub fn take(&mut self) -> Vec<Answer> {
        let mut out = Vec::new();
        while let Ok(answer) = self.answers.try_recv() {
            self.under_way -= 1;
            out.push(answer);
        }
        out
    }
}

async fn ask_all(sources: &[Arc<dyn Source>], question: Question) -> Answer {
    let Question { number, id, topic, place } = question;
    let mut answer = Answer { number, places: Vec::new(), tag: None, complete: true };
    if let Some((name, identity)) = place {
        ask_tag(sources, (&name, identity), &mut answer).await;
        return answer;
    }
    for source in sources {
        let query =
            LocateQuery { what: LocateBy::Id(id.to_string()), topic: topic.to_string(), limit: LOCATE_LIMIT };
        let late = SourceError::Unavailable("no answer in time".into());
        let located = timeout(CALL_MAX, source.locate(query)).await.unwrap_or(Err(late));
        match located {
            Ok(Located { places, complete, .. }) => {
                answer.complete &= complete;
                answer.places.extend(places.into_iter().map(|place| (source.name(), place.identity)));
            }
            Err(error) => {
                tracing::debug!(source = %source.name(), %error, "question not answered");
                answer.complete = false;
            }
        }
    }
    answer
}

/// What tag the message at a place has; a source that is gone or silent has not answered.
async fn ask_tag(sources: &[Arc<dyn Source>], place: (&Name, MessageIdentity), answer: &mut Answer) {
    let (name, identity) = place;
    let source = sources.iter().find(|source| source.name() == *name);
    let inspected = match source {
        Some(source) => timeout(CALL_MAX, source.inspect(identity)).await,
        None => {
            answer.complete = false;
            return;
        }
    };
    match inspected {
        Ok(Ok(found)) => {
            answer.tag = found.filter(|found| found.damage.is_empty()).map(|found| found.place.tags)
        }
        late_or_failed => {
            tracing::debug!(source = %name, ?late_or_failed, "question not answered");
            answer.complete = false;
        }
    }
}
