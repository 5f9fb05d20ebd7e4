//! Owns the records of the trace topic, as far as they say who was given what. A hint, never proof: a client drops them when
//! it is in a hurry. Pure.

use flate2::read::ZlibDecoder;
use std::io::Read;

/// Where clients' trace records are stored.
pub const TRACE_TOPIC: &[u8] = b"RMQ_SYS_TRACE_TOPIC";
/// Longest body that is unpacked, in bytes; a client makes batches of 128,000.
const UNPACKED_LEN_MAX: u64 = 8 << 20;
const COMPRESSED: i32 = 1;

/// Takes group and message id of a delivery.
pub type Each<'a, E> = dyn FnMut(&[u8], &[u8]) -> Result<(), E> + 'a;

/// Gives group and message id of every delivery to `each`; false when the body could not be unpacked.
pub fn deliveries<E>(
    body: &[u8],
    sys_flag: i32,
    unpacked: &mut Vec<u8>,
    each: &mut Each<'_, E>,
) -> Result<bool, E> {
    unpacked.clear();
    let text = if sys_flag & COMPRESSED != 0 {
        if ZlibDecoder::new(body).take(UNPACKED_LEN_MAX).read_to_end(unpacked).is_err() {
            return Ok(false);
        }
        unpacked.as_slice()
    } else {
        body
    };
    for line in text.split(|byte| *byte == 2) {
        let mut fields = line.split(|byte| *byte == 1);
        if fields.next() != Some(b"SubBefore".as_slice()) {
            continue;
        }
        // time, region, group, request id, message id
        if let (Some(group), Some(id)) = (fields.nth(2), fields.nth(1)) {
            each(group, id)?;
        }
    }
    Ok(true)
}
