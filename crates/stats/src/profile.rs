//! Profiles: what was learned, kept for the next start. Written by the tool, read by the engine in place.
//!
//! ```text
//! header | objects | sites, ascending by object and offset | targets
//! ```
//! Nothing in it is an address: an object is named by its build-id, a site and a target by their offsets in
//! an object. So it holds wherever things are mapped, and what belongs to another build finds no object. The
//! reader takes it as hostile, like a statistics file; and since a tree is right whatever it knows, a wrong
//! profile costs time only.

use crate::plain::{Plain, record};

/// First eight bytes of a profile.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RLPPROFL");
/// Version of this layout; a reader takes no other.
pub const VERSION: u32 = 1;
/// Objects that the engine looks at.
pub const OBJECTS: usize = 512;
/// A larger profile is not read by the engine.
pub const MOST_BYTES: usize = 64 << 20;

record! {
    /// Start of the file.
    pub struct Head {
        /// [`MAGIC`].
        pub magic: u64,
        /// [`VERSION`].
        pub version: u32,
        /// Number of objects.
        pub objects: u32,
        /// Number of sites.
        pub sites: u32,
        /// Number of targets.
        pub targets: u32,
    }
}

record! {
    /// An executable or a library.
    pub struct ProfiledObject {
        /// Bytes of `build_id` in use, at most 20.
        pub build_id_len: u32,
        /// The start of its build-id.
        pub build_id: [u8; 20],
        /// Its path, for people; zero-padded, cut at the front when too long.
        pub path: [u8; 232],
    }
}

record! {
    /// A site that was promoted.
    pub struct ProfiledSite {
        /// Offset of its instruction in its object.
        pub offset: u64,
        /// Calls that were counted.
        pub calls: u64,
        /// Index of its object.
        pub object: u32,
        /// Index of its first target.
        pub first_target: u32,
        /// Number of its targets, in the order in which they are compared with.
        pub targets: u32,
        /// How many of them stand in the hot chain.
        pub chain: u32,
    }
}

record! {
    /// A target of a site.
    pub struct ProfiledTarget {
        /// Its offset in its object.
        pub offset: u64,
        /// Index of its object.
        pub object: u32,
        /// Its share of the site's calls, 16.16.
        pub share: u32,
    }
}

/// Why a file is no profile that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// The magic is missing.
    Magic,
    /// Of another layout.
    Version(u32),
    /// Shorter than its header says.
    CutOff,
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic => f.write_str("it is not a profile of relpoline's"),
            Self::Version(version) => write!(f, "it has layout version {version}, this one reads {VERSION}"),
            Self::CutOff => f.write_str("it is cut off"),
        }
    }
}

impl core::error::Error for Unusable {}

/// A profile, read from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    objects: &'a [u8],
    sites: &'a [u8],
    targets: &'a [u8],
}

impl<'a> Profile<'a> {
    /// Checks the header and finds the tables.
    ///
    /// # Errors
    /// [`Unusable`] when `bytes` are no whole profile of this version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unusable> {
        let head = Head::load(bytes).filter(|head| head.magic == MAGIC).ok_or(Unusable::Magic)?;
        if head.version != VERSION {
            return Err(Unusable::Version(head.version));
        }
        let rest = bytes.get(Head::SIZE..).ok_or(Unusable::CutOff)?;
        let (objects, rest) = split::<ProfiledObject>(rest, head.objects).ok_or(Unusable::CutOff)?;
        let (sites, rest) = split::<ProfiledSite>(rest, head.sites).ok_or(Unusable::CutOff)?;
        let (targets, _) = split::<ProfiledTarget>(rest, head.targets).ok_or(Unusable::CutOff)?;
        Ok(Self { objects, sites, targets })
    }

    /// How many records of targets there are.
    #[must_use]
    pub const fn target_count(&self) -> usize {
        self.targets.len() / ProfiledTarget::SIZE
    }

    /// Its objects, by index.
    pub fn objects(&self) -> impl Iterator<Item = ProfiledObject> + use<'a> {
        self.objects.chunks_exact(ProfiledObject::SIZE).filter_map(ProfiledObject::load)
    }

    /// Its sites.
    pub fn sites(&self) -> impl Iterator<Item = ProfiledSite> + use<'a> {
        self.sites.chunks_exact(ProfiledSite::SIZE).filter_map(ProfiledSite::load)
    }

    /// The site at an offset of an object.
    #[must_use]
    pub fn site(&self, object: u32, offset: u64) -> Option<ProfiledSite> {
        let (mut low, mut high) = (0, self.sites.len() / ProfiledSite::SIZE);
        while low < high {
            let middle = low + (high - low) / 2;
            let site = nth::<ProfiledSite>(self.sites, middle)?;
            match (site.object, site.offset).cmp(&(object, offset)) {
                core::cmp::Ordering::Equal => return Some(site),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The targets of a site, as far as they are there.
    pub fn targets(&self, site: &ProfiledSite) -> impl Iterator<Item = ProfiledTarget> + use<'a> {
        let skipped = (site.first_target as usize).saturating_mul(ProfiledTarget::SIZE);
        let rest = self.targets.get(skipped..).unwrap_or_default();
        rest.chunks_exact(ProfiledTarget::SIZE).take(site.targets as usize).filter_map(ProfiledTarget::load)
    }
}

/// The bytes of `count` records, and what is behind them.
fn split<T: Plain>(bytes: &[u8], count: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked((count as usize).checked_mul(T::SIZE)?)
}

fn nth<T: Plain>(bytes: &[u8], index: usize) -> Option<T> {
    T::load(bytes.get(index.checked_mul(T::SIZE)?..)?)
}
