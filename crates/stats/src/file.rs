//! Where the records lie, and the reader.
//!
//! A file is a [`Header`], then the records of objects, events, samples and sites, each table at the offset
//! and with the record size that the header names. The reader takes the file as hostile: it checks every
//! bound before it reads, clips the counts to what the file holds and an engine writes, and never panics (a
//! property test feeds it noise).

use crate::plain::Plain;
use crate::record::{EventRecord, Header, LastTargetRecord, MAGIC, ObjectRecord, SampleRecord, SiteRecord, VERSION};

/// Tables start on a multiple of this.
const TABLE_ALIGN: usize = 64;

/// Offsets of the tables for given capacities; the engine sizes its file by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Objects there is room for.
    pub objects: u32,
    /// Sites there is room for.
    pub sites: u32,
    /// Events that are kept.
    pub events: u32,
    /// Samples there is room for; even.
    pub samples: u32,
    /// Targets, of all sites together, there is room for at the end.
    pub targets: u32,
}

impl Layout {
    /// What the engine makes room for. No reader believes that there is more.
    pub const MOST: Layout = Layout { objects: 4096, sites: 65_536, events: 2048, samples: 256, targets: 1 << 18 };

    /// Offset of the object records.
    #[must_use]
    pub const fn object_offset(self) -> usize {
        size_of::<Header>().next_multiple_of(TABLE_ALIGN)
    }

    /// Offset of the event records.
    #[must_use]
    pub const fn event_offset(self) -> usize {
        let objects = self.objects as usize * size_of::<ObjectRecord>();
        (self.object_offset() + objects).next_multiple_of(TABLE_ALIGN)
    }

    /// Offset of the sample records.
    #[must_use]
    pub const fn sample_offset(self) -> usize {
        let events = self.events as usize * size_of::<EventRecord>();
        (self.event_offset() + events).next_multiple_of(TABLE_ALIGN)
    }

    /// Offset of the records of all targets.
    #[must_use]
    pub const fn target_offset(self) -> usize {
        let samples = self.samples as usize * size_of::<SampleRecord>();
        (self.sample_offset() + samples).next_multiple_of(TABLE_ALIGN)
    }

    /// Offset of the site records.
    #[must_use]
    pub const fn site_offset(self) -> usize {
        let targets = self.targets as usize * size_of::<LastTargetRecord>();
        (self.target_offset() + targets).next_multiple_of(TABLE_ALIGN)
    }

    /// Bytes of the whole file. Sparse: pages that are never stored to take no memory.
    #[must_use]
    pub const fn file_size(self) -> usize {
        self.site_offset() + self.sites as usize * size_of::<SiteRecord>()
    }

    /// A header that describes this layout, everything else zero. The magic is left out: the writer stores
    /// it last, when the rest is in place.
    #[must_use]
    pub const fn header(self) -> Header {
        #[expect(clippy::cast_possible_truncation, reason = "sizes of our own records and small tables")]
        Header {
            version: VERSION,
            header_size: size_of::<Header>() as u32,
            object_offset: self.object_offset() as u32,
            object_size: size_of::<ObjectRecord>() as u32,
            object_capacity: self.objects,
            site_offset: self.site_offset() as u32,
            site_size: size_of::<SiteRecord>() as u32,
            site_capacity: self.sites,
            event_offset: self.event_offset() as u32,
            event_size: size_of::<EventRecord>() as u32,
            event_capacity: self.events,
            sample_offset: self.sample_offset() as u32,
            sample_size: size_of::<SampleRecord>() as u32,
            sample_capacity: self.samples,
            target_offset: self.target_offset() as u32,
            target_size: size_of::<LastTargetRecord>() as u32,
            target_capacity: self.targets,
            ..Header::ZERO
        }
    }
}

/// Why a file is not a statistics file that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// The magic is missing: another file, or one whose writer did not get that far.
    Magic,
    /// Written by an engine with another layout.
    Version(u32),
    /// Record sizes are not those of this version.
    Sizes,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short => f.write_str("the file is shorter than its header"),
            Self::Magic => f.write_str("the file is not a finished statistics file"),
            Self::Version(v) => write!(f, "the file has layout version {v}, this tool reads {VERSION}"),
            Self::Sizes => f.write_str("the file's record sizes are not those of its version"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A statistics file, read from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stats<'a> {
    header: Header,
    bytes: &'a [u8],
}

impl<'a> Stats<'a> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`Malformed`] when `bytes` are no statistics file of this version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = Header::load(bytes).ok_or(Malformed::Short)?;
        if header.magic != MAGIC {
            return Err(Malformed::Magic);
        }
        if header.version != VERSION {
            return Err(Malformed::Version(header.version));
        }
        let sizes = [
            header.header_size,
            header.object_size,
            header.site_size,
            header.event_size,
            header.sample_size,
            header.target_size,
        ];
        let known = [
            Header::SIZE,
            ObjectRecord::SIZE,
            SiteRecord::SIZE,
            EventRecord::SIZE,
            SampleRecord::SIZE,
            LastTargetRecord::SIZE,
        ];
        if sizes.map(|size| size as usize) != known {
            return Err(Malformed::Sizes);
        }
        Ok(Self { header, bytes })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The object records in use, as far as the file holds them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRecord> + use<'a> {
        let h = &self.header;
        table(self.bytes, h.object_offset, h.object_count.min(h.object_capacity).min(Layout::MOST.objects))
    }

    /// The site records in use, as far as the file holds them.
    pub fn sites(&self) -> impl Iterator<Item = SiteRecord> + use<'a> {
        self.numbered_sites().map(|(_, site)| site)
    }

    /// The same with their indices, which events refer to.
    pub fn numbered_sites(&self) -> impl Iterator<Item = (u32, SiteRecord)> + use<'a> {
        let h = &self.header;
        let all = table(self.bytes, h.site_offset, h.site_count.min(h.site_capacity).min(Layout::MOST.sites));
        (0..).zip(all).filter(|(_, site): &(u32, SiteRecord)| site.address != 0)
    }

    /// The events that are still there, oldest first.
    pub fn events(&self) -> impl Iterator<Item = EventRecord> + use<'a> {
        let h = &self.header;
        let capacity = u64::from(h.event_capacity.min(Layout::MOST.events));
        let kept = h.event_count.min(capacity);
        let first = if capacity == 0 { 0 } else { (h.event_count - kept) % capacity };
        let all = |from: u64, to: u64| {
            let skipped = from.saturating_mul(EventRecord::SIZE as u64);
            let offset = u64::from(h.event_offset).saturating_add(skipped);
            table(self.bytes, u32::try_from(offset).unwrap_or(u32::MAX), u32::try_from(to - from).unwrap_or(0))
        };
        all(first, (first + kept).min(capacity)).chain(all(0, (first + kept).saturating_sub(capacity)))
    }

    /// All targets of all sites, in a file whose process has ended in an orderly way.
    pub fn last_targets(&self) -> impl Iterator<Item = LastTargetRecord> + use<'a> {
        let h = &self.header;
        table(self.bytes, h.target_offset, h.target_count.min(h.target_capacity).min(Layout::MOST.targets))
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> impl Iterator<Item = SampleRecord> + use<'a> {
        let h = &self.header;
        table(self.bytes, h.sample_offset, h.sample_count.min(h.sample_capacity).min(Layout::MOST.samples))
    }
}

/// Up to `count` records from `offset` on.
fn table<T: Plain>(bytes: &[u8], offset: u32, count: u32) -> impl Iterator<Item = T> {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    rest.chunks_exact(T::SIZE).take(count as usize).filter_map(T::load)
}

/// The text in a zero-padded field: the bytes before the first zero.
#[must_use]
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Puts `text` into a zero-padded field. When it is too long its *end* is kept, since the end of a path says
/// more than its start. One zero byte always remains.
pub fn set_text(field: &mut [u8], text: &[u8]) {
    field.fill(0);
    let room = field.len().saturating_sub(1);
    let tail = text.get(text.len().saturating_sub(room)..).unwrap_or_default();
    if let Some(start) = field.get_mut(..tail.len()) {
        start.copy_from_slice(tail);
    }
}
