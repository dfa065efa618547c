//! `relpoline kernel`: the module `relpoline.ko`, which promotes the kernel's own indirect calls.
//!
//! | verb | module |
//! |---|---|
//! | `load`, `unload` | [`module`]: with the reason, when the module refuses |
//! | `status`, `sites`, `top` | [`show`]: what it has learned and done |
//! | `enable`, `disable`, `relearn`, `count`, `set` | [`device`]: its device `control` |
//! | `doctor` | [`doctor`]: whether there is anything to gain on this machine |
//!
//! Loading and unloading needs root. Who may do the rest, the permissions of the devices in `/dev/relpoline`
//! say.

pub mod device;
pub mod doctor;
pub mod module;
pub mod named;
pub mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use device::Control;

/// `relpoline kernel`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct KernelArgs {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  relpoline kernel doctor
  sudo relpoline kernel load                    what DKMS has built
  sudo relpoline kernel load --module relpoline.ko
  sudo relpoline kernel status
  sudo relpoline kernel sites --promoted
  sudo relpoline kernel sites --named           those of the dynamic-call patches, of files, of security hooks
  sudo relpoline kernel count --seconds 10      how many calls are covered

It needs a kernel that runs with retpolines: `relpoline kernel doctor` says whether this one does. See docs/kernel.md.

Exit status: 0 done; 1 not done, and the kernel is unharmed; doctor: 0 there is something to gain, 1 there is not.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether there is anything to gain on this machine, and if not, why.
    Doctor,
    /// Load the module and begin to promote.
    Load(module::LoadArgs),
    /// Put every site back and take the module out of the kernel.
    Unload,
    /// Show what is promoted and what was done.
    Status(show::StatusArgs),
    /// Show the busiest sites again and again, counting their calls.
    Top(show::TopArgs),
    /// List sites: where they are, what they are, where their calls go.
    Sites(show::SitesArgs),
    /// Promote (again).
    Enable,
    /// Let every site lead to its retpoline; the module stays loaded.
    Disable,
    /// Forget what was learned and learn anew.
    Relearn,
    /// Count all calls for a time and show how many trees covered. Costs a few instructions per call
    /// meanwhile.
    Count(show::CountArgs),
    /// Turn a knob; without a value, show all. They are described in docs/kernel.md.
    Set(SetArgs),
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Which knob.
    #[arg(requires = "value")]
    knob: Option<String>,
    /// What it shall be.
    value: Option<u32>,
}

/// Does what the arguments say.
///
/// # Errors
/// What went wrong: the module is not loaded, refuses, or may not be asked.
pub fn run(arguments: &KernelArgs) -> Result<ExitCode> {
    match &arguments.verb {
        Verb::Doctor => return doctor::run(),
        Verb::Load(arguments) => module::load(arguments)?,
        Verb::Unload => module::unload()?,
        Verb::Status(arguments) => show::status(arguments)?,
        Verb::Top(arguments) => show::top(arguments)?,
        Verb::Sites(arguments) => show::sites(arguments)?,
        Verb::Count(arguments) => show::count(arguments)?,
        Verb::Enable => Control::open()?.tell("enable")?,
        Verb::Disable => Control::open()?.tell("disable")?,
        Verb::Relearn => Control::open()?.tell("relearn")?,
        Verb::Set(SetArgs { knob: Some(knob), value: Some(value) }) => {
            Control::open()?.tell(&format!("{knob} {value}"))?;
        }
        Verb::Set(_) => print!("{}", Control::open()?.knobs()?),
    }
    Ok(ExitCode::SUCCESS)
}
