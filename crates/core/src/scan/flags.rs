//! Whether the status flags are dead at a label.
//!
//! A branch tree compares, and so destroys the flags before it arrives at a goto's label. That is right only
//! where nothing after the label can read what was in them. From the label on, instructions are followed
//! through direct jumps until one replaces all six flags, or a call or return is met (flags do not survive
//! those in the calling convention): dead. A reader first, an unknown instruction, an indirect jump that is
//! no site, or too long a way: live.

use super::Region;
use crate::arch::{
    decode::{FlagUse, Flow, decode},
    thunk,
};

/// Instructions followed before giving up. Compilers settle the flags within a few.
const MAX_STEPS: usize = 64;

/// Whether the flags are dead at `label`. `is_checked_goto` says of the address of a direct jump and its
/// target that it is a site all of whose labels are checked in the same analysis.
pub(super) fn are_dead(text: Region<'_>, label: u64, is_checked_goto: impl Fn(u64, u64) -> bool) -> bool {
    // The deliberate fault that the tests must notice: flags are never looked at.
    if cfg!(relpoline_broken = "flags-at-goto") {
        return true;
    }
    let mut at = label;
    for _ in 0..MAX_STEPS {
        match step(text, at) {
            Step::Dead => return true,
            Step::Live => return false,
            Step::On(next) => at = next,
            Step::Jump(target) if is_checked_goto(at, target) => return true,
            Step::Jump(target) => at = target,
        }
    }
    false
}

enum Step {
    Dead,
    Live,
    On(u64),
    Jump(u64),
}

fn step(text: Region<'_>, at: u64) -> Step {
    let Some(insn) = text.from(at).and_then(decode) else {
        return Step::Live;
    };
    match insn.flags {
        FlagUse::Overwrites => return Step::Dead,
        FlagUse::Reads => return Step::Live,
        FlagUse::Neither => {}
    }
    match insn.flow {
        Flow::Next => Step::On(insn.next(at)),
        Flow::Jump { .. } => insn.branch_target(at).map_or(Step::Live, Step::Jump),
        // An inline thunk starts with a call, and jumps with the flags as they are.
        Flow::Call { .. } if text.from(at).is_some_and(|bytes| thunk::match_at(bytes).is_some()) => Step::Live,
        Flow::Call { .. } | Flow::IndirectCall | Flow::Return => Step::Dead,
        // jrcxz and loop read no flag, but lead two ways.
        Flow::Cond { .. } | Flow::IndirectJump | Flow::Trap => Step::Live,
    }
}
