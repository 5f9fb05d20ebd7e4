//! Owns who calls: what the metadata of a call says about the client, its language and its patience.

use super::proto::{Code, Language};
use super::status::{Refused, refuse};
use super::time::grpc_timeout_ms;
use lifecycle::identity::Name;
use std::net::{Ipv4Addr, SocketAddr};
use tonic::metadata::MetadataMap;

/// Longest client id.
const CLIENT_ID_MAX_BYTES: usize = 255;
/// What a call without a peer address (none over TCP) is noted under.
const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The client behind one call.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) client: Name,
    pub(super) language: Language,
    pub(super) address: SocketAddr,
    /// How long the client waits for this call, when it says so.
    pub(super) timeout_ms: Option<u64>,
}

impl Caller {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Caller, Refused> {
        let metadata = request.metadata();
        let client = text(metadata, "x-mq-client-id").unwrap_or_default().trim();
        if client.is_empty() {
            return refuse(Code::ClientIdRequired, "metadata x-mq-client-id is missing");
        }
        if client.len() > CLIENT_ID_MAX_BYTES {
            return refuse(
                Code::BadRequest,
                format!("client id of {} bytes is over the limit of {CLIENT_ID_MAX_BYTES}", client.len()),
            );
        }
        Ok(Caller {
            client: Name::from(client),
            language: language(text(metadata, "x-mq-language").unwrap_or_default()),
            address: request.remote_addr().unwrap_or(NO_ADDRESS),
            timeout_ms: text(metadata, "grpc-timeout").and_then(grpc_timeout_ms),
        })
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    metadata.get(key)?.to_str().ok()
}

fn language(header: &str) -> Language {
    match header {
        // the Node SDK calls itself HTTP here, and NODE_JS in its settings only
        "HTTP" | "NODE_JS" => Language::NodeJs,
        "GO" => Language::Golang,
        "DOTNET" => Language::DotNet,
        other => Language::from_str_name(other).unwrap_or(Language::Unspecified),
    }
}

/// A language as operators know it from remoting clients.
pub(super) fn language_name(language: Language) -> Name {
    Name::from(match language {
        Language::Unspecified => "OTHER",
        Language::DotNet => "DOTNET",
        Language::Golang => "GO",
        other => other.as_str_name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> Result<Caller, Refused> {
        let mut request = tonic::Request::new(());
        for (key, value) in headers {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        Caller::of(&request)
    }

    #[test]
    fn headers_of_the_sdks() {
        let check = |header: &str, expected| {
            let caller = of(&[("x-mq-client-id", "c"), ("x-mq-language", header)]).unwrap();
            assert_eq!(caller.language, expected);
        };
        check("HTTP", Language::NodeJs);
        check("PYTHON", Language::Python);
        check("RUST", Language::Rust);
        check("JAVA", Language::Java);
        check("COBOL", Language::Unspecified);
        let caller = of(&[("x-mq-client-id", "c"), ("grpc-timeout", "40S")]).unwrap();
        assert_eq!((&*caller.client, caller.timeout_ms), ("c", Some(40_000)));
    }

    #[test]
    fn a_client_needs_an_id() {
        assert_eq!(of(&[]).unwrap_err().code, Code::ClientIdRequired);
        assert_eq!(of(&[("x-mq-client-id", " ")]).unwrap_err().code, Code::ClientIdRequired);
        assert_eq!(of(&[("x-mq-client-id", &"c".repeat(256))]).unwrap_err().code, Code::BadRequest);
    }
}
