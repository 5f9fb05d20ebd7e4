//! Owns the commands that ask a running agent: one HTTP client, the API's own answers, printed. Never computes an answer of
//! its own, except the exit code: 3 when what was asked about has open losses.

use crate::LOSSES_OPEN;
use crate::cli::{Format, How, Question, WhichLosses};
use crate::config::Settings;
use crate::doctor;
use crate::tables;
use agent::http::desk::FoundMessage;
use agent::http::paging::LIMIT_MAX;
use agent::http::problem::Problem;
use agent::report::views::{
    BalanceRow, DlqRow, Envelope, ExposureReport, GroupRow, LossDetail, LossItem, MessageTimeline, Page,
    TopicRow,
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(15);
/// Most rows of one answer; more are named as missing.
const ROWS_MAX: usize = 10_000;
/// Most topics in which a key is looked for when none is named.
const KEY_TOPICS_MAX: usize = 100;
/// Most messages shown for one key.
const KEY_MESSAGES_MAX: usize = 20;

/// Asks, prints, and says how it looks.
pub(crate) fn run(settings: &Settings, question: &Question) -> Result<u8> {
    let ask = |how: &How| Ask::new(settings, how);
    let open = match question {
        Question::Why { asked, topic, how } => why(&ask(how), asked, topic.as_deref())?,
        Question::Losses { which, how } => losses(&ask(how), which)?,
        Question::Balance { topic, group, from, to, how } => {
            let ask = ask(how);
            let scope = query(&[("topic", topic.as_deref()), ("group", group.as_deref())]);
            let window = query(&[("from", from.as_deref()), ("to", to.as_deref())]);
            let path = format!("/api/v1/balance?{scope}&{window}").replace("?&", "?");
            let path = path.trim_end_matches('&');
            ask.show_list(path, tables::balance, |_: &BalanceRow| ())?;
            ask.open_losses(&scope)?
        }
        Question::Retire { group, operator, how } => {
            let ask = ask(how);
            let path = format!("/api/v1/groups/{}/retire", encode(group));
            let answer: Envelope<Vec<GroupRow>> =
                ask.post(&path, &serde_json::json!({ "operator": operator }))?;
            ask.show(&answer, |rows| tables::retired(rows))?;
            false
        }
        Question::Dlq { group, how } => {
            let ask = ask(how);
            let scope = query(&[("group", group.as_deref())]);
            ask.show_list(&format!("/api/v1/dlq?{scope}"), tables::dlq, |_: &DlqRow| ())?;
            ask.open_losses(&scope)?
        }
        Question::Topics { how } => {
            let ask = ask(how);
            ask.show_list("/api/v1/topics?", tables::topics, |_: &TopicRow| ())?;
            ask.open_losses("")?
        }
        Question::Exposure { how } => {
            let ask = ask(how);
            let answer: Envelope<ExposureReport> = ask.get("/api/v1/exposure")?;
            ask.show(&answer, tables::exposure)?;
            ask.open_losses("")?
        }
        Question::Doctor { offline: true, how } => {
            let findings = doctor::of_configuration(settings);
            match how.output {
                Format::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
                Format::Table => println!("{}", tables::findings(&findings)),
            }
            false
        }
        Question::Doctor { offline: false, how } => {
            let ask = ask(how);
            let answer: Envelope<ExposureReport> = ask.get("/api/v1/exposure")?;
            ask.show(&answer, |report| tables::findings(&report.findings))?;
            ask.open_losses("")?
        }
    };
    Ok(if open { LOSSES_OPEN } else { 0 })
}

fn losses(ask: &Ask, which: &WhichLosses) -> Result<bool> {
    let scope = query(&[
        ("topic", which.topic.as_deref()),
        ("group", which.group.as_deref()),
        ("verdict", which.verdict.as_deref()),
        ("state", which.state.as_deref()),
        ("from", which.from.as_deref()),
        ("to", which.to.as_deref()),
        // a state says more than open or closed
        ("open", (!which.all && which.state.is_none()).then_some("true")),
    ]);
    let mut open = false;
    ask.show_list(&format!("/api/v1/losses?{scope}"), tables::losses, |row: &LossItem| {
        open |= row.open && row.loss;
    })?;
    Ok(open)
}

/// By id; when no message has it, by key.
fn why(ask: &Ask, asked: &str, topic: Option<&str>) -> Result<bool> {
    let mut timelines = Vec::new();
    if topic.is_none() {
        timelines.push(ask.message(asked)?);
    }
    if timelines.iter().all(|answer| answer.data.identity.is_none()) {
        let found = ask.find(asked, topic)?;
        if !found.is_empty() {
            timelines.clear();
        } else if let Some(topic) = topic {
            bail!(
                "no message of topic {topic} has the key {asked}; without --topic it is looked up as an id too"
            );
        }
        for message in found.iter().take(KEY_MESSAGES_MAX) {
            let FoundMessage { id, broker, topic, queue_id, queue_offset, .. } = message;
            let place = format!("{broker}/{topic}/{queue_id}/{queue_offset}");
            timelines.push(ask.message(if id.is_empty() { &place } else { id })?);
        }
        if found.len() > KEY_MESSAGES_MAX {
            eprintln!("{} messages have this key, the first {KEY_MESSAGES_MAX} are shown", found.len());
        }
    }
    match (ask.format, timelines.as_slice()) {
        (Format::Json, [only]) => ask.show(only, tables::timeline)?,
        (Format::Json, several) => println!("{}", serde_json::to_string_pretty(several)?),
        (Format::Table, several) => {
            for answer in several {
                ask.show(answer, tables::timeline)?;
            }
        }
    }
    for incident in timelines.iter().flat_map(|answer| &answer.data.incidents) {
        let detail: Envelope<LossDetail> = ask.get(&format!("/api/v1/losses/{}", encode(incident)))?;
        if detail.data.item.open && detail.data.item.loss {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One agent to ask.
struct Ask {
    base: String,
    format: Format,
    http: ureq::Agent,
}

impl Ask {
    fn new(settings: &Settings, how: &How) -> Ask {
        let base = how.server.clone().unwrap_or_else(|| format!("http://{}", settings.listen.agent_http));
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        let base = base.trim_end_matches('/').to_owned();
        Ask { base, format: how.output, http: config.build().into() }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("{}{path}", self.base);
        self.answer(&url, self.http.get(&url).call())
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let request = self.http.post(&url).header("content-type", "application/json");
        self.answer(&url, request.send(body.to_string()))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        url: &str,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T> {
        let mut response =
            called.with_context(|| format!("no answer from {} (is the agent running?)", self.base))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().with_context(|| format!("answer of {url}"))?;
        if !status.is_success() {
            let detail = serde_json::from_str::<Problem>(&text).map(|problem| problem.detail).unwrap_or(text);
            bail!("{detail} ({status})");
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{url} does not answer as an agent of this version"))
    }

    fn message(&self, id: &str) -> Result<Envelope<MessageTimeline>> {
        self.get(&format!("/api/v1/messages/{}", encode(id)))
    }

    fn find(&self, key: &str, topic: Option<&str>) -> Result<Vec<FoundMessage>> {
        let topics = match topic {
            Some(topic) => vec![topic.to_owned()],
            None => {
                let all: Envelope<Page<TopicRow>> = self.list("/api/v1/topics?")?;
                let mut names: Vec<String> = all.data.items.into_iter().map(|row| row.topic).collect();
                names.retain(|name| !name.starts_with('%'));
                names.dedup();
                if names.len() > KEY_TOPICS_MAX {
                    eprintln!("there are {} topics: to look for a key, name one with --topic", names.len());
                    names.clear();
                }
                names
            }
        };
        let mut found = Vec::new();
        for topic in topics {
            let path = format!("/api/v1/messages?{}&", query(&[("key", Some(key)), ("topic", Some(&topic))]));
            let page: Envelope<Page<FoundMessage>> = self.list(&path)?;
            found.extend(page.data.items);
        }
        Ok(found)
    }

    /// All pages of a list, up to [`ROWS_MAX`]. `path` ends where a parameter can follow.
    fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Envelope<Page<T>>> {
        let first = format!("{path}&limit={LIMIT_MAX}").replace("?&", "?").replace("&&", "&");
        let mut whole: Envelope<Page<T>> = self.get(&first)?;
        while let Some(cursor) = whole.data.next.clone().filter(|_| whole.data.items.len() < ROWS_MAX) {
            let more: Envelope<Page<T>> = self.get(&format!("{first}&cursor={}", encode(&cursor)))?;
            whole.data.items.extend(more.data.items);
            whole.data.next = more.data.next;
        }
        Ok(whole)
    }

    fn show<T: Serialize>(&self, answer: &Envelope<T>, table: impl Fn(&T) -> String) -> Result<()> {
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(answer)?),
            Format::Table => println!("{}\n{}", tables::evidence(answer), table(&answer.data)),
        }
        Ok(())
    }

    fn show_list<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        table: impl Fn(&[T]) -> String,
        mut each: impl FnMut(&T),
    ) -> Result<()> {
        let answer: Envelope<Page<T>> = self.list(path)?;
        answer.data.items.iter().for_each(&mut each);
        self.show(&answer, |page| table(&page.items))?;
        if answer.data.next.is_some() {
            eprintln!("the first {} of {} rows", answer.data.items.len(), answer.data.total);
        }
        Ok(())
    }

    fn open_losses(&self, scope: &str) -> Result<bool> {
        let answer: Envelope<Page<LossItem>> = self.list(&format!("/api/v1/losses?{scope}&open=true"))?;
        Ok(answer.data.items.iter().any(|item| item.loss))
    }
}

/// `a=1&b=2` of what is given.
fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything that is not plain.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_the_way() {
        assert_eq!(encode("%DLQ%a b/ü"), "%25DLQ%25a%20b%2F%C3%BC");
        assert_eq!(query(&[("a", Some("1&2")), ("b", None), ("c", Some("x"))]), "a=1%262&c=x");
    }
}
