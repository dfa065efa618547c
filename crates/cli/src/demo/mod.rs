//! demo
use crate::arguments::DemoArgs;
use std::process::ExitCode;
/// run
pub fn run(_arguments: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("soon")
}
