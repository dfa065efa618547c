//! What the surroundings of a command want of it: shell completions and manual pages, both made from the
//! command line's own definition, so that they cannot be out of date.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::{Arguments, CompletionsArgs, ManArgs};
use crate::files::written::PUBLIC;
use crate::files::{Directory, Written};
use crate::workbench::scratch::Scratch;

/// `relpoline completions SHELL`: writes the script to stdout.
///
/// # Errors
/// None today.
pub fn completions(arguments: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(script(arguments.shell).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The completion script for a shell. It offers processes where one is asked for.
fn script(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut visible(&Arguments::command()), "relpoline", &mut bytes);
    let script = String::from_utf8_lossy(&bytes);
    match shell {
        Shell::Bash => with_pids_in_bash(&script),
        Shell::Zsh => with_pids_in_zsh(&script),
        Shell::Fish => with_pids_in_fish(&script),
        // The generators of other shells know no such places.
        _ => script.into_owned(),
    }
}

/// Subcommands that are told processes by number: any that runs, or those that have an engine.
const OF_ANY: [&str; 1] = ["attach"];
const OF_ENGINES: [&str; 8] = ["detach", "enable", "disable", "relearn", "top", "report", "explain", "perf"];

/// Behind the generated function another one stands, which adds numbers to what that one offers, unless an
/// option is being written.
fn with_pids_in_bash(script: &str) -> String {
    let registered = script.find("\nif [[ \"${BASH_VERSINFO[0]}\"");
    let (functions, _) = script.split_at(registered.unwrap_or(script.len()));
    format!(
        r#"{functions}

_relpoline_and_processes() {{
    _relpoline "$@"
    local word="${{COMP_WORDS[COMP_CWORD]}}" numbers=
    [[ "$word" == -* || COMP_CWORD -lt 2 ]] && return 0
    case "${{COMP_WORDS[1]}}" in
        {any})
            numbers=$(cd /proc && printf '%s
' [0-9]*)
            ;;
        {engines})
            numbers=$(relpoline list 2>/dev/null | awk '$1 ~ /^[0-9]+$/ {{ print $1 }}')
            ;;
        *)
            return 0
            ;;
    esac
    COMPREPLY=( $(compgen -W "$numbers" -- "$word") "${{COMPREPLY[@]}}" )
}}

complete -F _relpoline_and_processes -o bashdefault -o default relpoline
"#,
        any = OF_ANY.join("|"),
        engines = OF_ENGINES.join("|")
    )
}

/// Zsh has a function of its own for processes.
fn with_pids_in_zsh(script: &str) -> String {
    let mut out = String::new();
    for line in script.lines() {
        let is_pid = [":pid", "::pid", ":pids", "::pids", ":subject"]
            .iter()
            .any(|name| line.contains(&format!("{name} -- ")) || line.contains(&format!("{name}:")));
        let line = if is_pid && !line.contains(":subject") {
            line.replace(":_default'", ":_pids'")
        } else if is_pid {
            line.replace(":_files'", ":{_pids; _files}'")
        } else {
            line.to_owned()
        };
        out += &line;
        out.push('\n');
    }
    out
}

/// So has fish.
fn with_pids_in_fish(script: &str) -> String {
    let mut out = script.to_owned();
    for verb in OF_ANY.iter().chain(&OF_ENGINES) {
        out += &format!(
            "complete -c relpoline -n \"__fish_relpoline_using_subcommand {verb}\" -f -a \"(__fish_complete_pids)\"\n"
        );
    }
    out
}

/// A command line without what its help does not show either: the generators of scripts know nothing of
/// hidden options.
fn visible(command: &clap::Command) -> clap::Command {
    // A few hundred bytes, until this process ends.
    let kept = |text: &str| -> &'static str { text.to_owned().leak() };
    let mut shown = clap::Command::new(kept(command.get_name()));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(kept(version));
    }
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible);
    shown.args(arguments).subcommands(subcommands)
}

/// `relpoline man`: writes the main page to stdout, or all pages into a directory.
///
/// # Errors
/// When the directory or a page cannot be written.
pub fn man(arguments: &ManArgs) -> anyhow::Result<ExitCode> {
    match &arguments.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            io::stdout().write_all(as_written(&String::from_utf8_lossy(&page)).as_bytes())?;
        }
        Some(directory) => write_pages(directory)
            .with_context(|| format!("the manual pages cannot be written to {}", directory.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(directory: &Path) -> anyhow::Result<()> {
    // Not by a link of somebody else's.
    drop(Directory::made(directory)?);
    let scratch = Scratch::new("man")?;
    clap_mangen::generate_to(Arguments::command(), scratch.path())?;
    for entry in std::fs::read_dir(scratch.path())? {
        let entry = entry?;
        let page = as_written(&std::fs::read_to_string(entry.path())?);
        Written::new(&directory.join(entry.file_name()))?.write(page.as_bytes(), PUBLIC)?;
    }
    Ok(())
}

/// A page whose last section is what `--help` ends with. The formatter would fill its lines; examples, lists
/// of exit statuses and variables keep theirs, under headings of their own.
fn as_written(page: &str) -> String {
    const EXTRA: &str = ".SH EXTRA\n";
    let Some((before, extra)) = page.split_once(EXTRA) else { return page.to_owned() };
    let (extra, after) = extra.find("\n.SH ").map_or((extra, ""), |at| extra.split_at(at + 1));
    let mut out = before.to_owned();
    let mut is_kept = false;
    let mut is_headed = false;
    for line in extra.lines() {
        let heading =
            ["Examples:", "Exit status:", "Environment:"].into_iter().find(|heading| line.starts_with(heading));
        let wants_kept = line.starts_with("  ");
        if is_kept != wants_kept && (wants_kept || !line.trim().is_empty()) {
            out += if wants_kept { ".nf\n" } else { ".fi\n" };
            is_kept = wants_kept;
        }
        match heading {
            Some(heading) => {
                out += &format!(".SH {}\n", heading.trim_end_matches(':').to_uppercase());
                let rest = line[heading.len()..].trim_start();
                if !rest.is_empty() {
                    out += &format!("{rest}\n");
                }
            }
            None if line.trim().is_empty() && !is_kept => out += ".PP\n",
            None => {
                if !is_headed {
                    out += ".SH NOTES\n";
                }
                out += line;
                out.push('\n');
            }
        }
        is_headed = true;
    }
    if is_kept {
        out += ".fi\n";
    }
    out + after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines() {
        let page =
            ".SH NAME\nx\n.SH EXTRA\nExamples:\n  a    what\n  b\n\nExit status: 0 fine\n  1  not\n.SH VERSION\nv1\n";
        let expected = ".SH NAME\nx\n.SH EXAMPLES\n.nf\n  a    what\n  b\n\n.fi\n.SH EXIT STATUS\n0 fine\n.nf\n  1  not\n.fi\n.SH VERSION\nv1\n";
        assert_eq!(as_written(page), expected);
        assert_eq!(as_written("no such section\n"), "no such section\n");
    }

    /// What a shell offers where a process is asked for, by that shell.
    #[test]
    fn bash_offers_processes_and_no_hidden_option() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("relpoline.bash");
        std::fs::write(&file, script(Shell::Bash)).unwrap();
        let offered = |words: &str| {
            let ask = format!(
                "source {file}; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); \
                 _relpoline_and_processes relpoline \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"; complete -p relpoline",
                file = file.display()
            );
            let said = std::process::Command::new("bash").args(["-c", &ask]).output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            String::from_utf8(said.stdout).unwrap()
        };
        let own = std::process::id().to_string();
        let words = offered(&format!("relpoline attach {own}"));
        assert!(words.lines().any(|line| line == own) && words.contains("-F _relpoline_and_processes"), "{words}");
        let options = offered("relpoline attach --");
        assert!(options.contains("--tree") && !options.contains("--nervous"), "{options}");
        let elsewhere = offered("relpoline inspect \"\"");
        assert!(!elsewhere.lines().any(|line| line == "1"), "{elsewhere}");
    }

    #[test]
    fn zsh_and_fish_offer_processes() {
        let zsh = script(Shell::Zsh);
        assert!(zsh.matches(":_pids'").count() >= 6, "{zsh}");
        let fish = script(Shell::Fish);
        assert_eq!(fish.matches("(__fish_complete_pids)").count(), OF_ANY.len() + OF_ENGINES.len());
    }

    /// The option is hidden in `run` and `attach`, and shown in `torture`.
    #[test]
    fn no_script_offers_what_is_hidden() {
        use clap_complete::Shell::{Bash, Elvish, Fish, PowerShell, Zsh};
        let script_of = |command: clap::Command, shell| {
            let (mut command, mut script) = (command, Vec::new());
            clap_complete::generate(shell, &mut command, "relpoline", &mut script);
            String::from_utf8(script).unwrap()
        };
        for shell in [Bash, Zsh, Fish, PowerShell, Elvish] {
            let (all, shown) =
                (script_of(Arguments::command(), shell), script_of(visible(&Arguments::command()), shell));
            let lines = |script: &str, word: &str| script.lines().filter(|line| line.contains(word)).count();
            assert_eq!((lines(&all, "nervous"), lines(&shown, "nervous")), (3, 1), "{shell}");
            for word in ["no-link", "report-format", "disable", "completions", "version"] {
                assert_eq!(lines(&all, word), lines(&shown, word), "{word} {shell}");
            }
        }
    }
}
