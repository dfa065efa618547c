//! `profile.proto`, as pprof, Pyroscope and Parca read it: a sample per site and target, whose stack is the
//! target on top of the site, and whose value is calls.
//!
//! The format is a handful of protocol buffer messages; writing them needs varints and lengths, and nothing
//! else.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::model::{BuildId, Place, Profile};
use super::show::known;
use crate::report::digest::hexadecimal;
use crate::shown::Shown;
use crate::symbols::Known;

/// Address space that is given to each object.
const OBJECT_BITS: u32 = 40;

/// Fields of `Profile`, and of the messages in it.
mod field {
    pub const SAMPLE_TYPE: u64 = 1;
    pub const SAMPLE: u64 = 2;
    pub const MAPPING: u64 = 3;
    pub const LOCATION: u64 = 4;
    pub const FUNCTION: u64 = 5;
    pub const STRINGS: u64 = 6;
}

/// The profile, gzipped.
pub fn render(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let mut writer = Writer { known: known(profile), ids: profile.objects.keys().zip(1..).collect(), ..Writer::new() };
    let message = writer.profile(profile);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message)?;
    gzip.finish()
}

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

struct Writer<'a> {
    known: Known,
    ids: BTreeMap<&'a BuildId, u64>,
    strings: Vec<String>,
    numbers: BTreeMap<String, u64>,
    functions: BTreeMap<u64, Message>,
    locations: BTreeMap<Place, u64>,
    written: Message,
}

impl Writer<'_> {
    fn new() -> Self {
        let mut writer = Self {
            known: Known::default(),
            ids: BTreeMap::new(),
            strings: Vec::new(),
            numbers: BTreeMap::new(),
            functions: BTreeMap::new(),
            locations: BTreeMap::new(),
            written: Message::default(),
        };
        // The first string is the empty one.
        writer.string("");
        writer
    }

    fn profile(&mut self, profile: &Profile) -> Vec<u8> {
        let mut kind = Message::default();
        kind.number(1, self.string("calls"));
        kind.number(2, self.string("count"));
        let mut samples = Message::default();
        for (place, site) in &profile.sites {
            let caller = self.location(place);
            for (target, share) in &site.targets {
                let callee = self.location(target);
                let mut sample = Message::default();
                for location in [callee, caller] {
                    sample.number(1, location);
                }
                sample.number(2, super::calls(site.calls, *share));
                samples.bytes(field::SAMPLE, &sample.0);
            }
        }
        let mut out = Message::default();
        out.bytes(field::SAMPLE_TYPE, &kind.0);
        out.0.extend(samples.0);
        for (build_id, path) in &profile.objects {
            let mapping = self.mapping(build_id, path);
            out.bytes(field::MAPPING, &mapping.0);
        }
        out.0.append(&mut self.written.0);
        for function in self.functions.values() {
            out.bytes(field::FUNCTION, &function.0);
        }
        for string in &self.strings {
            out.bytes(field::STRINGS, string.as_bytes());
        }
        out.0
    }

    fn string(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.strings.len() as u64;
        self.strings.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn mapping(&mut self, build_id: &BuildId, path: &str) -> Message {
        let id = self.ids.get(build_id).copied().unwrap_or(0);
        let mut mapping = Message::default();
        mapping.number(1, id);
        mapping.number(2, id << OBJECT_BITS);
        mapping.number(3, (id + 1) << OBJECT_BITS);
        mapping.number(5, self.string(&Shown::from(path)));
        mapping.number(6, self.string(&hexadecimal(build_id)));
        mapping.number(7, 1);
        mapping
    }

    /// The number of a place, written down when it is met for the first time.
    fn location(&mut self, place: &Place) -> u64 {
        if let Some(id) = self.locations.get(place) {
            return *id;
        }
        let (build_id, offset) = place;
        let id = self.locations.len() as u64 + 1;
        let object = self.ids.get(build_id).copied().unwrap_or(0);
        let name = self.known.function(build_id, *offset).unwrap_or_else(|| format!("{offset:#x}").into());
        let raw = self.known.raw(build_id, *offset).map_or_else(|| name.clone(), |(raw, _)| raw.into());
        let function = self.string(&format!("{object}:{raw}"));
        let (name, raw) = (self.string(&name), self.string(&raw));
        let mut message = Message::default();
        message.number(1, function);
        message.number(2, name);
        message.number(3, raw);
        self.functions.entry(function).or_insert(message);
        let mut line = Message::default();
        line.number(1, function);
        let mut location = Message::default();
        location.number(1, id);
        location.number(2, object);
        location.number(3, (object << OBJECT_BITS).wrapping_add(*offset));
        location.bytes(4, &line.0);
        self.written.bytes(field::LOCATION, &location.0);
        self.locations.insert(place.clone(), id);
        id
    }
}
