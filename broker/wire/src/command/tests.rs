use super::*;
use crate::frame::FrameDecoder;
use proptest::prelude::*;

fn frame(header_type: HeaderType, header: &[u8]) -> Frame {
    Frame { header_type, header: Bytes::copy_from_slice(header), body: Bytes::new() }
}

fn json(text: &str) -> Command {
    Command::decode(frame(HeaderType::Json, text.as_bytes())).unwrap()
}

#[test]
fn absent_and_empty_fields_differ() {
    assert_eq!(json(r#"{"code":1}"#).fields, None);
    assert_eq!(json(r#"{"code":1,"extFields":null}"#).fields, None);
    let empty = json(r#"{"code":1,"extFields":{}}"#);
    assert_eq!(empty.fields, Some(Fields::new()));
    assert!(empty.encode_header().starts_with(br#"{"code":1,"extFields":{},"flag""#));
}

#[test]
fn accepts_what_other_clients_write_in_json() {
    let command = json(
        r#"{ "code":"310", "language":9, "version":"273", "opaque":7.0, "flag":0, "new":[{"x":1}],
            "extFields":{"a":1,"b":-2,"c":true,"d":"x\u0001y","e":null,"f":1.5,"g":"é"} }"#,
    );
    assert_eq!((command.code, command.version, command.opaque), (310, 273, 7));
    assert_eq!(command.language, Language::Go);
    let fields = command.fields.unwrap();
    let entries: Vec<_> = fields.iter().collect();
    let expected = [("a", "1"), ("b", "-2"), ("c", "true"), ("d", "x\u{1}y"), ("f", "1.5"), ("g", "é")];
    assert_eq!(entries, expected);
}

#[test]
fn refuses_json_that_is_no_command() {
    for text in [
        "",
        "{}",
        "[]",
        r#"{"code":1"#,
        r#"{"code":1} x"#,
        r#"{"code":"one"}"#,
        r#"{"code":4294967296}"#,
        r#"{"code":1,"extFields":{"a":{}}}"#,
        r#"{"code":1,"extFields":[]}"#,
    ] {
        let result = Command::decode(frame(HeaderType::Json, text.as_bytes()));
        assert!(matches!(result, Err(CommandError::Json { .. })), "{text}");
    }
}

#[test]
fn control_characters_are_escaped_as_java_does() {
    let command = Command::request(1, 2).with_field("i", "A\u{1}\u{2}\n\t\"\\\u{1f}ü");
    let header = command.encode_header();
    let text = std::str::from_utf8(&header).unwrap();
    assert!(text.contains(r#""i":"A\u0001\u0002\n\t\"\\\u001Fü""#), "{text}");
}

#[test]
fn binary_header_errors_name_the_part() {
    let full = Command {
        header_type: HeaderType::Rocketmq,
        ..Command::request(11, 5).with_remark("r").with_field("topic", "T")
    }
    .encode_header();
    let last = full.len() - 1;
    for (cut, part) in [(1, "code"), (3, "language"), (14, "remark"), (last, "extFields")] {
        let part_len = if part == "language" { 2 } else { cut };
        let error = Command::decode(frame(HeaderType::Rocketmq, &full[..part_len])).unwrap_err();
        assert_eq!(error, CommandError::Truncated { part });
    }
    let mut bad = full.to_vec();
    bad[last] = 0xFF;
    let error = Command::decode(frame(HeaderType::Rocketmq, &bad)).unwrap_err();
    assert_eq!(error, CommandError::NotUtf8 { part: "field value" });
}

#[test]
fn what_has_no_binary_form_goes_out_as_json() {
    let command = Command { header_type: HeaderType::Rocketmq, ..Command::request(200_050, 1) };
    let mut out = BytesMut::new();
    command.encode(&mut out);
    let frame = FrameDecoder::default().decode(&mut out).unwrap().unwrap();
    assert_eq!(frame.header_type, HeaderType::Json);
    assert_eq!(Command::decode(frame).unwrap().code, 200_050);
}

#[test]
fn a_response_takes_opaque_and_header_type_of_its_request() {
    let request =
        Command { header_type: HeaderType::Rocketmq, language: Language::Cpp, ..Command::oneway(10, 77) };
    assert!(request.is_oneway() && !request.is_response());
    let response = Command::error_to(&request, 13, "too large");
    assert!(response.is_response() && !response.is_oneway());
    assert_eq!((response.opaque, response.header_type), (77, HeaderType::Rocketmq));
    assert_eq!((response.language, response.version), (Language::Java, VERSION));
    assert_eq!(response.remark.as_deref(), Some("too large"));
}

#[test]
fn languages_keep_their_java_ordinals() {
    for (index, (language, name)) in LANGUAGES.iter().enumerate() {
        assert_eq!(language.byte() as usize, index);
        assert_eq!(Language::from_name(name), *language);
        assert_eq!(Language::from_byte(index as u8), *language);
    }
    assert_eq!(Language::from_name("COBOL"), Language::Other);
    assert_eq!(Language::from_byte(200), Language::Other);
}

fn any_command() -> impl Strategy<Value = Command> {
    let fixed = (any::<i16>(), 0u8..14, any::<i16>(), any::<i32>(), any::<i32>());
    let remark = prop::option::of(".{1,20}");
    let fields = prop::option::of(prop::collection::vec((".{0,12}", ".{0,40}"), 0..8));
    let body = prop::collection::vec(any::<u8>(), 0..64);
    (fixed, remark, fields, any::<bool>(), body).prop_map(|(fixed, remark, fields, is_json, body)| {
        let entries = |list: &Vec<(String, String)>| {
            list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Fields>()
        };
        Command {
            code: fixed.0.into(),
            language: Language::from_byte(fixed.1),
            version: fixed.2.into(),
            opaque: fixed.3,
            flag: fixed.4,
            remark: remark.map(Cow::Owned),
            fields: fields.as_ref().map(entries).filter(|fields| is_json || !fields.is_empty()),
            header_type: if is_json { HeaderType::Json } else { HeaderType::Rocketmq },
            body: Bytes::from(body),
        }
    })
}

/// Whatever decodes must mean the same after it was written again.
fn refused_or_stable(frame: Frame) {
    let Ok(command) = Command::decode(frame) else { return };
    let mut out = BytesMut::new();
    command.encode(&mut out);
    let again = FrameDecoder::default().decode(&mut out).unwrap().unwrap();
    assert_eq!(Command::decode(again), Ok(command));
}

/// Code, sorted fields, remark.
type Parts = (i64, Option<Vec<(String, String)>>, Option<String>);

/// What the general JSON parser makes of a header; `None` where we must refuse it.
fn oracle(text: &str) -> Option<Parts> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let map = json.as_object()?;
    let fields = match map.get("extFields") {
        None | Some(serde_json::Value::Null) => None,
        Some(fields) => {
            let mut entries: Vec<(String, String)> = Vec::new();
            for (name, value) in fields.as_object()? {
                match value {
                    serde_json::Value::Null => {}
                    serde_json::Value::String(text) => entries.push((name.clone(), text.clone())),
                    serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
                        entries.push((name.clone(), value.to_string()));
                    }
                    _ => return None,
                }
            }
            entries.sort();
            Some(entries)
        }
    };
    let remark = match map.get("remark") {
        None | Some(serde_json::Value::Null) => None,
        Some(remark) => Some(remark.as_str()?.to_owned()),
    };
    Some((map.get("code")?.as_i64()?, fields, remark))
}

fn any_header_text() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[a-c\u{1}\u{2}\\\\\"/\n\té😀]{0,6}", ".{0,6}"];
    let string = text.prop_map(|text| serde_json::Value::from(text).to_string());
    let unicode =
        "\"(\\\\u[0-9a-fD]{4}|\\\\u[dD][89ab][0-9A-F]{2}\\\\u[dD][c-f][0-9a-f]{2}|\\\\[nrtbf/x]){0,3}\"";
    let scalar = prop_oneof![
        4 => string,
        2 => unicode,
        1 => "null|true|false|nul|tru",
        1 => "0|-?[1-9][0-9]{0,6}|-?0[0-9]|[0-9]{1,3}-|-",
        1 => "\\[1, \\{\\}\\]|\\{\\}|\\[",
    ];
    let name = "\"[a-z]{1,3}\"";
    let space = "[ \n\t]?";
    let fields = prop::collection::vec((name, space, scalar.clone()), 0..4).prop_map(|entries| {
        let mut names = std::collections::BTreeSet::new();
        let unique = entries.into_iter().filter(|(name, _, _)| names.insert(name.clone()));
        let list: Vec<_> =
            unique.map(|(name, space, value)| format!("{space}{name}{space}:{space}{value}")).collect();
        format!("{{{}}}", list.join(","))
    });
    let end = prop_oneof![9 => Just("}"), 1 => Just(""), 1 => Just("} }"), 1 => Just(",}")];
    (scalar.clone(), prop_oneof![4 => fields.boxed(), 1 => scalar.boxed()], space, end).prop_map(
        |(other, fields, space, end)| {
            format!("{space}{{\"code\":7,{space}\"x\":{other}{space},\"extFields\":{fields},\"remark\":{other}{end}")
        },
    )
}

proptest! {
    #[test]
    fn json_reads_as_the_general_parser_reads_it(text in any_header_text()) {
        let ours = Command::decode(frame(HeaderType::Json, text.as_bytes())).ok().map(|command| {
            let fields = command.fields.map(|fields| {
                let mut entries: Vec<_> =
                    fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                entries.sort();
                entries
            });
            (i64::from(command.code), fields, command.remark.map(Cow::into_owned))
        });
        prop_assert_eq!(ours, oracle(&text), "{}", text);
    }

    #[test]
    fn commands_round_trip(command in any_command()) {
        let mut out = BytesMut::new();
        command.encode(&mut out);
        let frame = FrameDecoder::default().decode(&mut out).unwrap().unwrap();
        prop_assert!(out.is_empty());
        prop_assert_eq!(Command::decode(frame).unwrap(), command);
    }

    #[test]
    fn any_header_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "\\{\"code\":[0-9\",{}:a-zA-Z\\\\]{0,60}") {
        for header_type in [HeaderType::Json, HeaderType::Rocketmq] {
            refused_or_stable(frame(header_type, &bytes));
            refused_or_stable(frame(header_type, text.as_bytes()));
        }
    }

    #[test]
    fn damaged_headers_never_panic(command in any_command(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut header = command.encode_header().to_vec();
        let at = at.index(header.len());
        header[at] = byte;
        refused_or_stable(frame(command.header_type, &header));
        refused_or_stable(frame(command.header_type, &header[..cut.index(header.len())]));
    }
}
