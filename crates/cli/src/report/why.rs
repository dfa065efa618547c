//! What a reason means, and what can be done about it: a sentence for each, wherever people ask why a site is
//! not promoted.

use relpoline_core::policy::Reason;

/// What the reason of this name means; nothing for a name that this version does not know.
#[must_use]
pub fn means(reason: &str) -> &'static str {
    Reason::ALL.into_iter().find(|known| known.text() == reason).map_or("", sentence)
}

const fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Cold => "Called too rarely so far to be worth learning. It is looked at once it is called more often.",
        Reason::Learning => "Its next calls are being recorded; then it is judged.",
        Reason::Promoted => {
            "A tree of direct jumps for its targets is in place; what is not in it takes the retpoline."
        }
        Reason::Megamorphic => {
            "It calls too many different targets: a tree for them would cost more than the retpoline. It gets another \
             chance later, at growing intervals."
        }
        Reason::Unpredictable => {
            "Its targets come in an order that no branch predictor can foretell: a tree would mispredict more than it \
             saves. It gets another chance later, at growing intervals."
        }
        Reason::OutOfRange => {
            "Its hot targets are more than 2 GiB away, beyond a direct jump: mostly calls from an executable into \
             libraries. Linking the executable without -pie, or statically with that library, brings them nearer."
        }
        Reason::Excluded => "It was excluded by --only or --exclude.",
        Reason::Disabled => {
            "It was switched off, alone or with the whole process: by `relpoline disable` or `detach`, or by the program."
        }
        Reason::BudgetSpent => {
            "The process has spent what learning and patching may cost for now (0.5 % of the time). It goes on later."
        }
        Reason::BackingOff => "Learning it changed nothing several times, so it is left as it is for a while.",
        Reason::ArenaFull => {
            "There is no room for another tree within reach: its targets changed too often. It stays as it is until \
             the process is started again."
        }
        Reason::NoGain => "A tree would not be faster than the retpoline by the margin that is asked for.",
        Reason::NotAnInstruction => {
            "Its bytes look like a branch to a retpoline, but no unwind table says that they are an instruction. \
             Compile with unwind tables (-fasynchronous-unwind-tables)."
        }
        Reason::NoArena => {
            "No free address space within 2 GiB of it, or executable memory is refused. `relpoline doctor` says more."
        }
        Reason::TextLocked => "The code that it lies in cannot be changed. `relpoline doctor` says more.",
        Reason::DryRun => "Nothing is patched, because only a look was asked for (--dry-run).",
        Reason::PlainThunk => {
            "It is a jump to a thunk that is no retpoline. Promotion needs the word that a retpoline overwrites itself, and \
             this one may hold the program's data. It keeps its thunk for good."
        }
        Reason::FrameUnknown => {
            "It is a computed goto in a function whose unwind rules are expressions (its stack is realigned, say). They \
             would not hold in a tree, so that a profiler or an exception could lose its way. It keeps its thunk for good."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_a_sentence() {
        for reason in Reason::ALL {
            assert!(means(reason.text()).ends_with('.'), "{reason}");
        }
        assert_eq!(means("unknown (99)"), "");
    }
}
