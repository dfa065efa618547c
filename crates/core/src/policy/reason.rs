//! Why a site is what it is. "Why was this site not promoted" must always have an answer.

/// The reason of a site's current state. Numbers are stable: they are part of the shared report. 6 and 14
/// said that flags are live at a jump, or may be; trees keep them now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Reason {
    /// Too few calls so far, or too rare to matter.
    #[default]
    Cold = 0,
    /// A trace is being taken.
    Learning = 1,
    /// A tree for its targets is in place.
    Promoted = 2,
    /// Too many targets, or too many different ones to know them.
    Megamorphic = 3,
    /// The order of its targets is random: a tree would mispredict more than it saves.
    Unpredictable = 4,
    /// Its hot targets are beyond the reach of a direct jump, or nothing one may jump to.
    OutOfRange = 5,
    /// Excluded by the user.
    Excluded = 7,
    /// Promotion is switched off.
    Disabled = 8,
    /// The process has spent what learning and patching may cost for now.
    BudgetSpent = 9,
    /// Learning changed nothing several times, so the site waits longer.
    BackingOff = 10,
    /// No room for another tree.
    ArenaFull = 11,
    /// A tree would not beat the retpoline by the margin.
    NoGain = 12,
    /// Its bytes look like a branch to a thunk, but are not known to be an instruction.
    NotAnInstruction = 13,
    /// No executable memory can be had within reach of it.
    NoArena = 15,
    /// The text it lies in cannot be changed.
    TextLocked = 16,
    /// Nothing is patched because only a look was asked for.
    DryRun = 17,
    /// It jumps to a thunk that begins with no call, so no word below the stack is known to be free.
    PlainThunk = 18,
    /// How its function unwinds at this jump cannot be said of other code.
    FrameUnknown = 19,
}

impl Reason {
    /// All reasons, ascending by number.
    pub const ALL: [Reason; 18] = [
        Reason::Cold,
        Reason::Learning,
        Reason::Promoted,
        Reason::Megamorphic,
        Reason::Unpredictable,
        Reason::OutOfRange,
        Reason::Excluded,
        Reason::Disabled,
        Reason::BudgetSpent,
        Reason::BackingOff,
        Reason::ArenaFull,
        Reason::NoGain,
        Reason::NotAnInstruction,
        Reason::NoArena,
        Reason::TextLocked,
        Reason::DryRun,
        Reason::PlainThunk,
        Reason::FrameUnknown,
    ];

    /// The reason with number `n`.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.number() == n)
    }

    /// Its stable number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// A short phrase for reports.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Cold => "cold",
            Reason::Learning => "learning",
            Reason::Promoted => "promoted",
            Reason::Megamorphic => "megamorphic",
            Reason::Unpredictable => "unpredictable",
            Reason::OutOfRange => "out of range",
            Reason::Excluded => "excluded",
            Reason::Disabled => "disabled",
            Reason::BudgetSpent => "budget spent",
            Reason::BackingOff => "backing off",
            Reason::ArenaFull => "arena full",
            Reason::NoGain => "no gain",
            Reason::NotAnInstruction => "not an instruction",
            Reason::NoArena => "no arena within reach",
            Reason::TextLocked => "text cannot be changed",
            Reason::DryRun => "dry run",
            Reason::PlainThunk => "thunk without a call",
            Reason::FrameUnknown => "frame unknown",
        }
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}
