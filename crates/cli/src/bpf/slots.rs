//! Slots of program arrays on the command line: what is to be in which one.

use anyhow::{Context, Result};
use relpoline_bpf::Object;

/// What is to be in a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Its number.
    pub slot: u32,
    /// The program's file, where it is one of another, and its name; `None` empties the slot.
    pub program: Option<(Option<&'a str>, &'a str)>,
}

/// Reads a slot's number, `between`, and `FILE:PROG`, `PROG` or nothing.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, between: char) -> Result<Change<'_>> {
    let (slot, program) = text.split_once(between).with_context(|| format!("no '{between}'"))?;
    let slot = slot.parse().context("a slot's number is expected")?;
    let program = match program.rsplit_once(':') {
        Some((file, name)) => Some((Some(file), name)),
        None => Some((None, program)),
    };
    Ok(Change { slot, program: program.filter(|(file, name)| file.is_some() || !name.is_empty()) })
}

/// Puts a program of `object` into the slot that `ARRAY=SLOT:PROG` says.
///
/// # Errors
/// There is no such array, slot or program, or the text is another.
pub fn fill(object: &Object, text: &str) -> Result<()> {
    let change = || {
        let (array, change) = text.split_once('=').context("no '='")?;
        Ok::<_, anyhow::Error>((array, parse(change, ':')?))
    };
    let (name, change) = change().with_context(|| format!("--slot {text} is not ARRAY=SLOT:[PROG]"))?;
    let array = object.array(name).with_context(|| format!("--slot {text}: no program array '{name}'"))?;
    let program = match change.program {
        None => None,
        Some((None, name)) => Some(super::choose(object, Some(name)).with_context(|| format!("--slot {text}"))?),
        Some((Some(_), _)) => anyhow::bail!("--slot {text}: programs of other files come by bpf swap"),
    };
    array.update(change.slot, program).with_context(|| format!("--slot {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_in_a_slot() {
        let read = |text| parse(text, '=').ok();
        let change = |slot, program| Some(Change { slot, program });
        assert_eq!(read("2=a:b.o:udp"), change(2, Some((Some("a:b.o"), "udp"))));
        assert_eq!(read("2=udp"), change(2, Some((None, "udp"))));
        assert_eq!(read("2="), change(2, None));
        for wrong in ["", "2", "=udp", "-1=udp", "4294967296=udp", "two=udp"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(parse("3:udp", ':').ok(), change(3, Some((None, "udp"))));
    }
}
