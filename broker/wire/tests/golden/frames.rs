//! Headers and framing of every frame.

use std::collections::BTreeMap;

use bytes::BytesMut;
use wire::frame::FrameDecoder;

use crate::transcripts;

#[test]
fn every_frame_decodes_to_its_fields_and_back_to_its_bytes() {
    let lines = transcripts();
    for line in &lines {
        let command = line.command();
        let json = &line.json;
        let place = line.place();
        assert_eq!(i64::from(command.code), json["code"], "{place}");
        assert_eq!(i64::from(command.flag), json["flag"], "{place}");
        assert_eq!(i64::from(command.opaque), json["opaque"], "{place}");
        assert_eq!(i64::from(command.version), json["version"], "{place}");
        assert_eq!(command.language.name(), json["language"], "{place}");
        assert_eq!(command.remark.as_deref(), json["remark"].as_str(), "{place}");
        let expected = json["ext"].as_object().unwrap();
        let fields: BTreeMap<_, _> = command.fields.iter().flat_map(|fields| fields.iter()).collect();
        assert_eq!(fields.len(), expected.len(), "{place}");
        for (name, value) in expected {
            assert_eq!(fields.get(name.as_str()).copied(), value.as_str(), "{place}");
        }
        assert_eq!(command.code_name(), json["name"], "{place}");
        let mut out = BytesMut::new();
        command.encode(&mut out);
        assert_eq!(&out[..], &line.raw[..], "{place}");
    }
}

#[test]
fn a_whole_transcript_decodes_as_one_stream() {
    let lines = transcripts();
    let mut buf = BytesMut::new();
    let mut seen = 0;
    for part in lines.iter().flat_map(|line| line.raw.chunks(1000)) {
        buf.extend_from_slice(part);
        while FrameDecoder::default().decode(&mut buf).unwrap().is_some() {
            seen += 1;
        }
    }
    assert_eq!((seen, buf.len()), (lines.len(), 0));
}
