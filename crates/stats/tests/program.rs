//! Programs of every kind, made up byte by byte, and noise.

use proptest::prelude::*;
use relpoline_stats::Refusal;
use relpoline_stats::program::{
    Program, SCRIPT_LINE, examine, interpreter, is_marked_for_shadow_stacks, tunables_enable_shadow_stack,
};

fn reader(file: &[u8]) -> impl FnMut(u64, &mut [u8]) -> usize {
    |offset, buffer| {
        let rest = usize::try_from(offset).ok().and_then(|at| file.get(at..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        length
    }
}

fn look(file: &[u8]) -> Program {
    examine(&mut reader(file))
}

/// A 64-bit ELF file whose one segment has this type and this content at its very end, as patchelf leaves it.
fn elf(segment: u32, content: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 8192];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    file[18] = 62;
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54] = 56;
    file[56] = 1;
    file[64..68].copy_from_slice(&segment.to_le_bytes());
    file[72..80].copy_from_slice(&8192_u64.to_le_bytes());
    file[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
    file.extend_from_slice(content);
    file
}

#[test]
fn loaders_are_told_apart() {
    let glibc = elf(3, b"/lib64/ld-linux-x86-64.so.2\0");
    assert_eq!(look(&glibc), Program::Fit);
    let nix = elf(3, b"/nix/store/0123456789-glibc-2.40/lib/ld-linux-x86-64.so.2\0");
    assert_eq!(look(&nix), Program::Fit);
    assert_eq!(look(&elf(3, b"/lib/ld-musl-x86_64.so.1\0")), Program::Unfit(Refusal::OtherLoader));
    assert_eq!(look(&elf(1, b"")), Program::Unfit(Refusal::Static));
}

#[test]
fn classes_and_machines_are_told_apart() {
    let mut file = elf(3, b"/lib/ld-linux.so.2\0");
    file[4] = 1;
    assert_eq!(look(&file), Program::Unfit(Refusal::OtherClass));
    let mut file = elf(3, b"/lib/ld-linux-aarch64.so.1\0");
    file[18] = 183;
    assert_eq!(look(&file), Program::Unfit(Refusal::OtherMachine));
    assert_eq!(look(b"MZ"), Program::Unfit(Refusal::NotElf));
    assert_eq!(look(b"\x7fELF\x02"), Program::Unfit(Refusal::NotElf));
    assert_eq!(look(b""), Program::Unfit(Refusal::NotElf));
}

#[test]
fn a_shadow_stack_mark_is_seen() {
    let mut file = elf(3, b"/lib64/ld-linux-x86-64.so.2\0");
    let note = [4, 16, 5, u32::from_le_bytes(*b"GNU\0"), 0xc000_0002, 4, 3, 0];
    let note: Vec<u8> = note.iter().flat_map(|word| word.to_le_bytes()).collect();
    file[56] = 2;
    let second = 64 + 56;
    file[second..second + 4].copy_from_slice(&0x6474_e553_u32.to_le_bytes());
    file[second + 8..second + 16].copy_from_slice(&4096_u64.to_le_bytes());
    file[second + 32] = 32;
    file[4096..4096 + note.len()].copy_from_slice(&note);
    assert!(is_marked_for_shadow_stacks(&mut reader(&file)));
    assert!(!is_marked_for_shadow_stacks(&mut reader(&elf(3, b"/lib64/ld-linux-x86-64.so.2\0"))));
    assert!(tunables_enable_shadow_stack(b"glibc.malloc.check=1:glibc.cpu.x86_shstk=on"));
    assert!(!tunables_enable_shadow_stack(b"glibc.cpu.x86_shstk=off"));
}

#[test]
fn a_script_names_its_interpreter() {
    for line in [&b"#!/bin/sh"[..], b"#! \t/bin/sh -e\necho", b"#!/bin/sh\0x"] {
        assert_eq!(look(line), Program::Script);
        assert_eq!(interpreter(&mut reader(line), &mut [0; SCRIPT_LINE + 1]), Some(c"/bin/sh"));
    }
    let long = [b"#!".as_slice(), &[b'x'; 400]].concat();
    let path = vec![b'x'; SCRIPT_LINE - 2];
    assert_eq!(interpreter(&mut reader(&long), &mut [0; SCRIPT_LINE + 1]).map(|p| p.to_bytes()), Some(&path[..]));
    for line in [&b"#!\n"[..], b"#! ", b"#!", b"#"] {
        assert_eq!(interpreter(&mut reader(line), &mut [0; SCRIPT_LINE + 1]), None);
    }
}

proptest! {
    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = look(&noise);
        let _ = is_marked_for_shadow_stacks(&mut reader(&noise));
        let _ = interpreter(&mut reader(&noise), &mut [0; SCRIPT_LINE + 1]);
    }

    #[test]
    fn a_damaged_elf_never_panics(writes in prop::collection::vec((6..4200_usize, any::<u8>()), 0..80)) {
        let mut file = elf(0x6474_e553, &[0xff; 64]);
        for (at, value) in writes {
            file[at] = value;
        }
        let _ = look(&file);
        let _ = is_marked_for_shadow_stacks(&mut reader(&file));
    }
}
