//! Owns names on the wire: a resource is a name with a namespace, stored as `namespace%name` as RocketMQ does.

use super::proto::{Code, Resource};
use super::status::{Refused, refuse};
use lifecycle::identity::Name;
use wire::name::{NameError, check_group, check_topic};

const NAMESPACE_SEPARATOR: char = '%';

/// The topic a resource names.
pub(super) fn topic(resource: Option<&Resource>) -> Result<Name, Refused> {
    checked(resource, check_topic, Code::IllegalTopic, "topic")
}

/// The consumer group a resource names.
pub(super) fn group(resource: Option<&Resource>) -> Result<Name, Refused> {
    checked(resource, check_group, Code::IllegalConsumerGroup, "consumer group")
}

fn checked(
    resource: Option<&Resource>,
    check: fn(&str) -> Result<(), NameError>,
    code: Code,
    what: &str,
) -> Result<Name, Refused> {
    let Some(resource) = resource else {
        return refuse(code, format!("{what} is missing"));
    };
    // the namespace alone would be a name
    let name = if resource.name.is_empty() { String::new() } else { joined(resource) };
    match check(&name) {
        Ok(()) => Ok(Name::from(name)),
        Err(error) => refuse(code, format!("{what}: {error}")),
    }
}

fn joined(resource: &Resource) -> String {
    match resource.resource_namespace.as_str() {
        "" => resource.name.clone(),
        namespace => format!("{namespace}{NAMESPACE_SEPARATOR}{}", resource.name),
    }
}

/// A stored name as a client of this namespace knows it.
pub(super) fn resource(name: &str, namespace: &str) -> Resource {
    let bare = name.strip_prefix(namespace).and_then(|rest| rest.strip_prefix(NAMESPACE_SEPARATOR));
    match bare {
        Some(bare) if !namespace.is_empty() => {
            Resource { resource_namespace: namespace.to_owned(), name: bare.to_owned() }
        }
        _ => Resource { resource_namespace: String::new(), name: name.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str, name: &str) -> Resource {
        Resource { resource_namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn namespaces_come_and_go() {
        assert_eq!(&*topic(Some(&of("", "t"))).unwrap(), "t");
        assert_eq!(&*topic(Some(&of("ns", "t"))).unwrap(), "ns%t");
        assert_eq!(resource("ns%t", "ns"), of("ns", "t"));
        assert_eq!(resource("ns%t", ""), of("", "ns%t"));
        assert_eq!(resource("%RETRY%g", ""), of("", "%RETRY%g"));
        assert_eq!(resource("other%t", "ns"), of("", "other%t"));
    }

    #[test]
    fn bad_names_have_their_code() {
        let code = |resource: Option<&Resource>| topic(resource).unwrap_err().code;
        assert_eq!(code(None), Code::IllegalTopic);
        assert_eq!(code(Some(&of("ns", ""))), Code::IllegalTopic);
        assert_eq!(code(Some(&of("", "a b"))), Code::IllegalTopic);
        assert_eq!(code(Some(&of(&"n".repeat(120), "12345678"))), Code::IllegalTopic);
        assert_eq!(group(Some(&of("", "a b"))).unwrap_err().code, Code::IllegalConsumerGroup);
    }
}
