//! How generated code jumps where no patched direct jump can lead.

/// What indirect branches of a runtime's generated code are. There are two kinds: tail calls whose index is
/// computed at run time, and calls of helpers. (A run is entered by an indirect call too, but that one is the
/// host's own, compiled as the host was.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IndirectBranches {
    /// Retpolines, of which hot tail calls are *promoted*: their usual targets are learned while programs run
    /// and become compare-and-jump code, by the policy that promotes the retpolines of whole programs. What
    /// is not promoted costs some 30 cycles. The default: programs come from others, run in the host's
    /// address space, and choose where these branches go.
    #[default]
    Promoted,
    /// Retpolines, and nothing is learned.
    Retpoline,
    /// Plain `jmp *reg` and `call *reg`. Nothing is learned, since a plain jump that is foreseen costs what a
    /// tree costs. For hosts that do not fear Spectre variant 2, as on processors that are immune, or where
    /// nobody else's code runs on the same core.
    Plain,
}
