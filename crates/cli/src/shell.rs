//! What the surroundings of a command want of it: shell completions and manual pages, both made from the
//! command line's own definition, so that they cannot be out of date.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionsArgs, ManArgs};

/// `relpoline completions SHELL`: writes the script to stdout.
///
/// # Errors
/// None today.
pub fn completions(arguments: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "relpoline", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

/// `relpoline man`: writes the main page to stdout, or all pages into a directory.
///
/// # Errors
/// When the directory or a page cannot be written.
pub fn man(arguments: &ManArgs) -> anyhow::Result<ExitCode> {
    match &arguments.out {
        None => clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout())?,
        Some(directory) => write_pages(directory)
            .with_context(|| format!("the manual pages cannot be written to {}", directory.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Arguments::command(), directory)
}
