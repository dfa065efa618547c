//! The one environment variable that carries the tool's options to the engine, `RELPOLINE_OPTS`.
//!
//! Its value is a comma-separated list of `key=value` or bare keys. In a value, every byte that could end it
//! (`,`, `%`, control characters, blanks) is written `%XX`, so any path or glob can be passed. [`parse`] is
//! what the engine runs inside a foreign process: it allocates nothing, borrows from the variable, and skips
//! what it does not know, so that an older engine survives a newer tool.

/// Name of the variable.
pub const VARIABLE: &str = "RELPOLINE_OPTS";
/// Name of the variable that switches promotion off when its value is [`OFF`].
pub const SWITCH: &str = "RELPOLINE";
/// The value of [`SWITCH`] that switches off.
pub const OFF: &str = "off";

/// Names of the keys.
pub mod key {
    /// Directory for the statistics files.
    pub const STATS: &str = "stats";
    /// Promote in objects whose path or file name matches this glob only. May be repeated.
    pub const ONLY: &str = "only";
    /// Leave objects whose path or file name matches this glob alone. May be repeated.
    pub const EXCLUDE: &str = "exclude";
    /// A profile to start warm from.
    pub const PROFILE: &str = "profile";
    /// Highest number of targets in a tree.
    pub const MAX_TARGETS: &str = "max_targets";
    /// Learn and relearn at every chance.
    pub const NERVOUS: &str = "nervous";
    /// Trees count their hits.
    pub const COUNT: &str = "count";
    /// Find the sites, patch nothing.
    pub const DRY_RUN: &str = "dry_run";
    /// Do not follow children across exec.
    pub const NO_FOLLOW: &str = "no_follow";
    /// Leave sites behind their gates.
    pub const NO_LINK: &str = "no_link";
    /// Switch off when the program enters a sandbox.
    pub const OFF_IN_SANDBOX: &str = "off_in_sandbox";
    /// Set by the engine itself: the program is not to find this variable, nor the engine in `LD_PRELOAD`.
    pub const HIDDEN: &str = "hidden";
}

/// A value as it stands in the variable, with its escapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl<'a> Escaped<'a> {
    /// Its bytes without the escapes. An incomplete escape stands for itself.
    pub fn bytes(self) -> impl Iterator<Item = u8> + Clone + use<'a> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (byte, after) = match rest {
                [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => (high << 4 | low, after),
                    _ => (b'%', rest.get(1..)?),
                },
                [byte, after @ ..] => (*byte, after),
                [] => return None,
            };
            rest = after;
            Some(byte)
        })
    }

    /// Copies the bytes without the escapes to the start of `buffer`: the part written, or `None` when it
    /// does not fit.
    pub fn copy_to(self, buffer: &mut [u8]) -> Option<&mut [u8]> {
        let mut length = 0;
        for byte in self.bytes() {
            *buffer.get_mut(length)? = byte;
            length += 1;
        }
        buffer.get_mut(..length)
    }
}

/// The value of a hexadecimal digit.
const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether `byte` has to be escaped in a value.
#[must_use]
pub const fn needs_escape(byte: u8) -> bool {
    byte <= b' ' || byte >= 0x7f || matches!(byte, b',' | b'%' | b'=')
}

/// What the variable says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options<'a> {
    /// [`key::STATS`].
    pub stats: Option<Escaped<'a>>,
    /// [`key::PROFILE`].
    pub profile: Option<Escaped<'a>>,
    /// [`key::MAX_TARGETS`].
    pub max_targets: Option<u32>,
    /// [`key::NERVOUS`].
    pub nervous: bool,
    /// [`key::COUNT`].
    pub count: bool,
    /// [`key::DRY_RUN`].
    pub dry_run: bool,
    /// [`key::NO_FOLLOW`].
    pub no_follow: bool,
    /// [`key::NO_LINK`].
    pub no_link: bool,
    /// [`key::OFF_IN_SANDBOX`].
    pub off_in_sandbox: bool,
    /// [`key::HIDDEN`].
    pub hidden: bool,
    source: &'a [u8],
}

/// Reads the variable's value.
#[must_use]
pub fn parse(source: &[u8]) -> Options<'_> {
    let mut options = Options { source, ..Options::default() };
    for (name, value) in pairs(source) {
        options.set(name, value);
    }
    options
}

impl<'a> Options<'a> {
    /// Whether the object at `path` is to be handled: it matches one of the `only` globs, when there are any,
    /// and none of the `exclude` globs. A glob is tried on the whole path and on the file name.
    #[must_use]
    pub fn selects(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let matches =
            |glob: Escaped<'a>| crate::glob::matches(glob.bytes(), path) || crate::glob::matches(glob.bytes(), name);
        let mut only = self.values(key::ONLY).peekable();
        let wanted = only.peek().is_none() || only.any(matches);
        wanted && !self.values(key::EXCLUDE).any(matches)
    }

    /// All values given for a key.
    pub fn values(&self, key: &'static str) -> impl Iterator<Item = Escaped<'a>> + use<'a> {
        pairs(self.source).filter(move |(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    fn set(&mut self, name: &[u8], value: Escaped<'a>) {
        let Ok(name) = core::str::from_utf8(name) else {
            return;
        };
        match name {
            key::STATS => self.stats = Some(value),
            key::PROFILE => self.profile = Some(value),
            key::MAX_TARGETS => self.max_targets = number(value),
            key::NERVOUS => self.nervous = true,
            key::COUNT => self.count = true,
            key::DRY_RUN => self.dry_run = true,
            key::NO_FOLLOW => self.no_follow = true,
            key::NO_LINK => self.no_link = true,
            key::OFF_IN_SANDBOX => self.off_in_sandbox = true,
            key::HIDDEN => self.hidden = true,
            _ => {}
        }
    }
}

/// The `key=value` pairs; a bare key has an empty value.
fn pairs(source: &[u8]) -> impl Iterator<Item = (&[u8], Escaped<'_>)> {
    source.split(|&byte| byte == b',').map(|item| {
        let mut halves = item.splitn(2, |&byte| byte == b'=');
        (halves.next().unwrap_or_default(), Escaped(halves.next().unwrap_or_default()))
    })
}

/// A decimal number, or `None` when it is none.
fn number(value: Escaped<'_>) -> Option<u32> {
    core::str::from_utf8(value.0).ok()?.parse().ok()
}
