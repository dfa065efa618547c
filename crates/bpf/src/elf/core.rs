//! CO-RE relocations (`struct bpf_core_relo` in `.BTF.ext`; the kernel's Documentation/bpf/btf.rst):
//! instructions that depend on how the kernel lays its types out.
//!
//! Where the host gives the types of a kernel ([`super::Around::types`]), they are resolved against these by
//! libbpf's rules: types are found by their names up to `___`, members by theirs, through structures without
//! names. What is asked for and not there becomes an instruction that ends the run in a trap: programs ask
//! first whether it exists.
//!
//! Without, what programs ask about structures that programs, users or the wire see is the same in every
//! kernel, so what the compiler put there is right. All else is refused, in the programs that ask it.

use super::btf::{Btf, kind};
use super::{File, ObjectError};
use crate::helper::UNRESOLVED;
use crate::insn::{BYTES, CALL, Insn, LD_IMM64, SOURCE_REG, class};
use object::{Object as _, ObjectSection as _};
use std::cell::Cell;
use std::collections::HashMap;

/// Structures whose layout never changes.
const FIXED: [&str; 17] = [
    "xdp_md",
    "__sk_buff",
    "bpf_sock",
    "bpf_sock_tuple",
    "bpf_fib_lookup",
    "bpf_flow_keys",
    "bpf_tunnel_key",
    "ethhdr",
    "vlan_hdr",
    "arphdr",
    "iphdr",
    "ipv6hdr",
    "in6_addr",
    "tcphdr",
    "udphdr",
    "icmphdr",
    "icmp6hdr",
];
/// Records of a file; no file has so many.
const MOST: usize = 1 << 16;
/// Bytes of the shortest record: instruction, type, access, kind.
const RECORD: u32 = 16;
/// Bytes of the shortest header that knows of CO-RE.
const HEADER: usize = 32;
/// How deep structures without names, pointers and arrays are followed.
const DEEPEST: usize = 32;
/// What is looked at for one record: members, values of enumerations, types of the name. The largest
/// structures of a kernel have some hundreds.
const MOST_OF_ONE: usize = 1 << 16;
/// The same for all records of a file.
const MOST_OF_ALL: usize = 1 << 22;
/// What a step of an access, or a comparison of two types, counts for.
const STEP: usize = 8;

/// What may still be looked at.
///
/// Types can be made so that a search for a member has no end in sight: structures without names can lie in
/// each other, many times over.
struct Budget {
    one: Cell<usize>,
    all: Cell<usize>,
    is_over: Cell<bool>,
}

impl Budget {
    fn new() -> Budget {
        Budget { one: Cell::new(0), all: Cell::new(MOST_OF_ALL), is_over: Cell::new(false) }
    }

    /// For the next record.
    fn begin(&self) {
        self.one.set(MOST_OF_ONE);
        self.is_over.set(false);
    }

    /// Whether so much may still be looked at. Once it may not, nothing more may be for this record.
    fn visit(&self, count: usize) -> Option<()> {
        let left = self.one.get().checked_sub(count).zip(self.all.get().checked_sub(count));
        let Some((one, all)) = left.filter(|_| !self.is_over.get()) else {
            self.is_over.set(true);
            return None;
        };
        self.one.set(one);
        self.all.set(all);
        Some(())
    }
}

/// What a relocation asks (`enum bpf_core_relo_kind`).
mod asks {
    pub const BYTE_OFFSET: u32 = 0;
    pub const BYTE_SIZE: u32 = 1;
    pub const FIELD_EXISTS: u32 = 2;
    pub const SIGNED: u32 = 3;
    pub const SHIFT_LEFT: u32 = 4;
    pub const SHIFT_RIGHT: u32 = 5;
    pub const TYPE_ID_LOCAL: u32 = 6;
    pub const TYPE_ID: u32 = 7;
    pub const TYPE_EXISTS: u32 = 8;
    pub const TYPE_SIZE: u32 = 9;
    pub const ENUMERATOR_EXISTS: u32 = 10;
    pub const ENUMERATOR_VALUE: u32 = 11;
    pub const TYPE_MATCHES: u32 = 12;
}

/// One question of a file.
#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    section: &'a str,
    slot: usize,
    id: u32,
    access: &'a str,
    asks: u32,
}

/// What becomes of the instruction in a slot.
#[derive(Debug)]
pub enum Answer {
    /// It, and the slot behind it, are to be these.
    Changed([Insn; 2]),
    /// Why it cannot be what it ought to.
    Refused(String),
}

/// An answer, and the instruction that it is for: section, slot.
pub type Answered = (String, usize, Answer);

/// The types of a kernel, by name.
pub struct Target<'a> {
    btf: Btf<'a>,
    by_name: HashMap<&'a str, Vec<u32>>,
}

impl<'a> Target<'a> {
    /// Reads type information: a `.BTF` section as it is (`/sys/kernel/btf/vmlinux`).
    pub fn parse(bytes: &'a [u8]) -> Option<Target<'a>> {
        let btf = Btf::parse(bytes)?;
        let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
        for id in 1..btf.count() {
            if let Some((_, name)) = btf.kind_and_name(id).filter(|(_, name)| !name.is_empty()) {
                by_name.entry(essential(name)).or_default().push(id);
            }
        }
        Some(Target { btf, by_name })
    }
}

/// A name without its flavour.
fn essential(name: &str) -> &str {
    match name.find("___") {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

/// What becomes of all instructions of `file` that depend on types; `read` gives those that are there.
pub fn answers(
    file: &File<'_>,
    target: Option<&Target<'_>>,
    read: impl Fn(&str, usize) -> Option<[Insn; 2]>,
) -> Result<Vec<Answered>, ObjectError> {
    let (Some(extension), Some(types)) = (file.section_by_name(".BTF.ext"), file.section_by_name(".BTF")) else {
        return Ok(Vec::new());
    };
    let data = extension.data().map_err(ObjectError::elf)?;
    let btf = Btf::parse(types.data().map_err(ObjectError::elf)?);
    let btf = btf.ok_or_else(|| ObjectError::section(".BTF", "malformed type information"))?;
    let records = records(data, &btf).ok_or_else(|| ObjectError::section(".BTF.ext", "malformed relocations"))?;
    let budget = Budget::new();
    let answer = |record: &Record<'_>| {
        let answer = match (target, read(record.section, record.slot)) {
            (_, None) => Answer::Refused("a CO-RE relocation outside of the section".into()),
            (None, _) if record.asks == asks::TYPE_ID_LOCAL => return None,
            (None, _) => Answer::Refused(without_target(&btf, record)?),
            (Some(target), Some(insns)) => match answer(&btf, target, record, insns, &budget) {
                Ok(Some(insns)) => Answer::Changed(insns),
                // The compiler is right about these.
                Ok(None) if without_target(&btf, record).is_none() => return None,
                Ok(None) => Answer::Changed(poison(insns)),
                Err(why) => Answer::Refused(why),
            },
        };
        Some((record.section.into(), record.slot, answer))
    };
    Ok(records.iter().filter_map(answer).collect())
}

fn records<'a>(data: &[u8], btf: &Btf<'a>) -> Option<Vec<Record<'a>>> {
    let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let header = word(4)? as usize;
    let mut found = Vec::new();
    if header < HEADER || word(28)? == 0 {
        return Some(found);
    }
    let begin = header.checked_add(word(24)? as usize)?;
    let end = begin.checked_add(word(28)? as usize)?;
    let size = word(begin).filter(|size| *size >= RECORD)? as usize;
    let mut at = begin + 4;
    while at < end {
        let (section, count) = (btf.string(word(at)?)?, word(at + 4)?);
        at += 8;
        for _ in 0..count {
            let (slot, id, asks) = (word(at)? as usize / BYTES, word(at + 4)?, word(at + 12)?);
            if found.len() >= MOST {
                return None;
            }
            found.push(Record { section, slot, id, access: btf.string(word(at + 8)?)?, asks });
            at += size;
        }
    }
    Some(found)
}

/// Why a relocation cannot be resolved where there is no kernel; `None` when it need not be.
fn without_target(btf: &Btf<'_>, record: &Record<'_>) -> Option<String> {
    let name = essential(btf.name_of(record.id).unwrap_or("?"));
    (!FIXED.contains(&name)).then(|| {
        format!(
            "a CO-RE relocation against '{name}', a type of the kernel that there is not here \
             (a kernel's types can be given: /sys/kernel/btf/vmlinux)"
        )
    })
}

/// A place inside a type.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Bits from its beginning.
    bits: u32,
    /// Type of what is there.
    kind: u32,
    /// Bits of it, if it is a bit field, or 0.
    width: u32,
}

/// One step of an access: the type it is within, and the member's name or the element's number.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    name: Option<&'a str>,
    index: u32,
    /// Type of what it leads to.
    kind: u32,
}

/// What a relocation's answer is, before it is put into an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    number: u64,
    /// Bytes of the field, if the instruction may access it.
    size: Option<u32>,
    /// Whether a field of another size can be accessed instead: an unsigned number, or a pointer.
    resizable: bool,
    /// Whether the instruction says so, before it is changed; of bit fields compilers have views of their
    /// own.
    told: bool,
}

impl Value {
    fn plain(number: impl Into<u64>) -> Value {
        Value { number: number.into(), size: None, resizable: false, told: true }
    }
}

/// What `insns` become; none where the kernel has no answer.
fn answer(
    btf: &Btf<'_>,
    target: &Target<'_>,
    record: &Record<'_>,
    insns: [Insn; 2],
    budget: &Budget,
) -> Result<Option<[Insn; 2]>, String> {
    budget.begin();
    let about = || format!("a CO-RE relocation against '{}'", essential(btf.name_of(record.id).unwrap_or("?")));
    let both = match record.asks {
        asks::TYPE_ID_LOCAL => Some((None, Some(Value::plain(record.id)))),
        asks::BYTE_OFFSET..=asks::SHIFT_RIGHT => field(btf, target, record, budget),
        asks::TYPE_ID..=asks::TYPE_SIZE => whole(btf, target, record, budget),
        asks::ENUMERATOR_EXISTS | asks::ENUMERATOR_VALUE => enumerator(btf, target, record, budget),
        asks::TYPE_MATCHES => return Err(format!("{}: whether types match cannot be asked here", about())),
        other => return Err(format!("{} of unknown kind {other}", about())),
    };
    if budget.is_over.get() {
        // What was found until then may not be all.
        return Err(format!("{} that takes too long to look for in the kernel's types", about()));
    }
    let (here, there) = both.ok_or_else(|| "a malformed CO-RE relocation".to_string())?;
    let Some(there) = there else { return Ok(None) };
    let here = here.filter(|here| here.told);
    patch(insns, here, there).map(Some).ok_or_else(|| format!("{} that does not fit its instruction", about()))
}

/// Instructions that end the run in a trap.
pub fn poison([first, second]: [Insn; 2]) -> [Insn; 2] {
    /// `r0 = r0`.
    const NOTHING: Insn = Insn { opcode: 0xbf, dst: 0, src: 0, offset: 0, imm: 0 };
    let trap = Insn { opcode: CALL, imm: UNRESOLVED.cast_signed(), ..Insn::default() };
    [trap, if first.opcode == LD_IMM64 { NOTHING } else { second }]
}

/// The instruction with `there` for `here`, which it has now.
fn patch(insns: [Insn; 2], here: Option<Value>, there: Value) -> Option<[Insn; 2]> {
    let [first, second] = insns;
    let mut changed = insns;
    let is = |value: u64| here.is_none_or(|here| here.number == value);
    match first.opcode & 7 {
        class::ALU | class::ALU64 if first.opcode & SOURCE_REG == 0 => {
            let low = |number: u64| number as u32 as i32;
            let fits = |number: u64| number >> 32 == 0 || i64::from(low(number)) == number.cast_signed();
            (here.is_none_or(|here| low(here.number) == first.imm) && fits(there.number)).then_some(())?;
            changed[0].imm = low(there.number);
        }
        class::LDX | class::ST | class::STX => {
            is(i64::from(first.offset).cast_unsigned()).then_some(())?;
            changed[0].offset = i16::try_from(there.number).ok()?;
            if let Some((before, after)) = here.and_then(|here| here.size.zip(there.size)).filter(|(a, b)| a != b) {
                let size = match after {
                    1 => 0x10,
                    2 => 0x08,
                    4 => 0x00,
                    8 => 0x18,
                    _ => return Some(poison(insns)),
                };
                if before > 8 || !here.is_some_and(|here| here.resizable) || !there.resizable {
                    return Some(poison(insns));
                }
                changed[0].opcode = first.opcode & !0x18 | size;
            }
        }
        class::LD if first.opcode == LD_IMM64 => {
            is(u64::from(first.imm.cast_unsigned()) | u64::from(second.imm.cast_unsigned()) << 32).then_some(())?;
            changed[0].imm = there.number as u32 as i32;
            changed[1].imm = (there.number >> 32) as u32 as i32;
        }
        _ => return None,
    }
    Some(changed)
}

/// The types of the kernel that have the name of `id`, and its kind.
fn candidates(btf: &Btf<'_>, target: &Target<'_>, id: u32, budget: &Budget) -> Vec<u32> {
    let Some((here, name)) = btf.kind_and_name(id) else { return Vec::new() };
    let ids = target.by_name.get(essential(name)).map_or(&[][..], Vec::as_slice);
    if budget.visit(ids.len()).is_none() {
        return Vec::new();
    }
    let kind = |id: &u32| target.btf.kind_and_name(*id).is_some_and(|(there, _)| same_kind(here, there));
    ids.iter().copied().filter(kind).collect()
}

fn same_kind(here: u32, there: u32) -> bool {
    let enumeration = |kind| matches!(kind, kind::ENUM | kind::ENUM64);
    here == there || enumeration(here) && enumeration(there)
}

/// The one answer of all candidates; none when they do not agree, or there is no candidate.
fn agreed(mut all: impl Iterator<Item = Value>) -> Option<Value> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

/// What is here and what is there.
type Both = (Option<Value>, Option<Value>);

/// Questions about a whole type. `None` when they are malformed.
fn whole(btf: &Btf<'_>, target: &Target<'_>, record: &Record<'_>, budget: &Budget) -> Option<Both> {
    (record.access == "0").then_some(())?;
    let alike = |there: &u32| budget.visit(STEP).is_some() && types_alike(btf, record.id, &target.btf, *there, DEEPEST);
    let mut found = candidates(btf, target, record.id, budget).into_iter().filter(alike);
    Some(match record.asks {
        asks::TYPE_EXISTS => (None, Some(Value::plain(u32::from(found.next().is_some())))),
        asks::TYPE_SIZE => {
            let here = Value::plain(btf.size_of(record.id)?);
            (Some(here), agreed(found.filter_map(|id| Some(Value::plain(target.btf.size_of(id)?)))))
        }
        _ => (Some(Value::plain(record.id)), found.next().map(Value::plain)),
    })
}

/// Questions about a value of an enumeration.
fn enumerator(btf: &Btf<'_>, target: &Target<'_>, record: &Record<'_>, budget: &Budget) -> Option<Both> {
    let id = btf.behind(record.id)?;
    let (name, value) = btf.enumerator(id, record.access.parse().ok()?)?;
    let find = |id: u32| {
        let mut numbers = (0..target.btf.enumerator_count(id)).map_while(|number| budget.visit(1).map(|()| number));
        numbers.find_map(|number| {
            let (other, value) = target.btf.enumerator(id, number)?;
            (essential(other) == essential(name)).then(|| Value::plain(value))
        })
    };
    let mut found = candidates(btf, target, id, budget).into_iter().filter_map(find);
    Some(match record.asks {
        asks::ENUMERATOR_EXISTS => (None, Some(Value::plain(u32::from(found.next().is_some())))),
        _ => (Some(Value::plain(value)), agreed(found)),
    })
}

/// Questions about a field.
fn field(btf: &Btf<'_>, target: &Target<'_>, record: &Record<'_>, budget: &Budget) -> Option<Both> {
    let root = btf.behind(record.id)?;
    let (steps, here) = follow(btf, root, record.access, budget)?;
    let asks = record.asks;
    let find = |id: u32| {
        let place = retrace(btf, &steps, &target.btf, id, budget)?;
        facts(&target.btf, &place, asks, steps.len() == 1)
    };
    let mut found = candidates(btf, target, root, budget).into_iter().filter_map(find);
    Some(match asks {
        asks::FIELD_EXISTS => (None, Some(Value::plain(u32::from(found.next().is_some())))),
        _ => (Some(facts(btf, &here, asks, steps.len() == 1)?), agreed(found)),
    })
}

/// The steps of an access such as `0:1:2` from type `root` on, without those into members that have no name;
/// and where it leads.
fn follow<'a>(btf: &Btf<'a>, root: u32, access: &str, budget: &Budget) -> Option<(Vec<Step<'a>>, Place)> {
    let mut numbers = access.split(':').map(|number| number.parse::<u32>().ok());
    let first = numbers.next()??;
    let mut place = Place { bits: first.checked_mul(btf.size_of(root)?)?.checked_mul(8)?, kind: root, width: 0 };
    let mut steps = vec![Step { name: None, index: first, kind: root }];
    for (depth, number) in numbers.enumerate() {
        let index = number.filter(|_| depth < DEEPEST)?;
        budget.visit(STEP)?;
        let id = btf.behind(place.kind)?;
        if let Some((element, _)) = btf.array(id) {
            let bits = index.checked_mul(btf.size_of(element)?)?.checked_mul(8)?;
            place = Place { bits: place.bits.checked_add(bits)?, kind: element, width: 0 };
            steps.push(Step { name: None, index, kind: element });
        } else {
            let member = btf.member(id, index as usize)?;
            place = Place { bits: place.bits.checked_add(member.bits)?, kind: member.kind, width: member.width };
            if !member.name.is_empty() {
                steps.push(Step { name: Some(member.name), index, kind: member.kind });
            }
        }
    }
    Some((steps, place))
}

/// Where the same steps lead from type `root` of the kernel on.
fn retrace(btf: &Btf<'_>, steps: &[Step<'_>], there: &Btf<'_>, root: u32, budget: &Budget) -> Option<Place> {
    let first = steps.first()?;
    budget.visit(STEP)?;
    let mut place = Place { bits: 0, kind: root, width: 0 };
    if first.index > 0 {
        place.bits = first.index.checked_mul(there.size_of(root)?)?.checked_mul(8)?;
    }
    for step in &steps[1..] {
        budget.visit(STEP)?;
        let id = there.behind(place.kind)?;
        place = match step.name {
            Some(name) => member(there, id, essential(name), place.bits, DEEPEST, budget)?,
            None => {
                let (element, count) = there.array(id)?;
                // One without a length may be the last member, and go on behind it.
                (count == 0 || step.index < count).then_some(())?;
                let bits = step.index.checked_mul(there.size_of(element)?)?.checked_mul(8)?;
                Place { bits: place.bits.checked_add(bits)?, kind: element, width: 0 }
            }
        };
        fields_alike(btf, step.kind, there, place.kind, DEEPEST).then_some(())?;
    }
    Some(place)
}

/// The member `name` of structure `id`, which lies at bit `at`; also of structures without names within.
fn member(btf: &Btf<'_>, id: u32, name: &str, at: u32, depth: usize, budget: &Budget) -> Option<Place> {
    let depth = depth.checked_sub(1)?;
    let mut numbers = (0..btf.member_count(id)).map_while(|number| budget.visit(1).map(|()| number));
    numbers.find_map(|number| {
        let one = btf.member(id, number)?;
        let bits = at.checked_add(one.bits)?;
        if one.name.is_empty() {
            return member(btf, btf.behind(one.kind)?, name, bits, depth, budget);
        }
        (essential(one.name) == name).then_some(Place { bits, kind: one.kind, width: one.width })
    })
}

/// The answer about a field at `place`; `element` says that it is no member, but an element of an array of
/// the whole type.
fn facts(btf: &Btf<'_>, place: &Place, asks: u32, element: bool) -> Option<Value> {
    if asks == asks::FIELD_EXISTS {
        return Some(Value::plain(1u32));
    }
    let size = btf.size_of(place.kind)?;
    if element {
        return match asks {
            asks::BYTE_OFFSET => Some(Value { size: Some(size), ..Value::plain(place.bits / 8) }),
            asks::BYTE_SIZE => Some(Value::plain(size)),
            _ => None,
        };
    }
    // The word that a bit field lies in: its own, or a wider one. Types may say any size and any place, and
    // their sums have more than 32 bits.
    let (mut bytes, at) = (size, u64::from(place.bits));
    let mut from = at / 8;
    let mut width = u64::from(size) * 8;
    if place.width > 0 {
        width = place.width.into();
        from = (at / 8).checked_div(bytes.into())? * u64::from(bytes);
        while at + width - from * 8 > u64::from(bytes) * 8 {
            (bytes < 8).then_some(())?;
            bytes *= 2;
            from = at / 8 / u64::from(bytes) * u64::from(bytes);
        }
    }
    let kind = btf.behind(place.kind).and_then(|id| btf.kind_and_name(id)).map(|(kind, _)| kind)?;
    let resizable = kind == kind::PTR || kind == kind::INT && !btf.is_signed(place.kind)?;
    let told = place.width == 0;
    Some(match asks {
        asks::BYTE_OFFSET => {
            // What a bit field's word is may differ from its type, which the instruction does not say.
            let size = (place.width == 0).then_some(bytes);
            Value { number: from, size, resizable, told }
        }
        asks::BYTE_SIZE => Value { told, ..Value::plain(bytes) },
        asks::SIGNED => Value::plain(u32::from(btf.is_signed(place.kind)?)),
        asks::SHIFT_LEFT => Value { told, ..Value::plain(64u64.checked_sub(at + width - from * 8)?) },
        asks::SHIFT_RIGHT => Value::plain(64u64.checked_sub(width)?),
        _ => return None,
    })
}

/// Whether a field of one type can stand for one of the other: libbpf's rules.
fn fields_alike(here: &Btf<'_>, a: u32, there: &Btf<'_>, b: u32, depth: usize) -> bool {
    let alike = || {
        let depth = depth.checked_sub(1)?;
        let (a, b) = (here.behind(a)?, there.behind(b)?);
        let ((first, own), (second, other)) = (here.kind_and_name(a)?, there.kind_and_name(b)?);
        let composite = |kind| matches!(kind, kind::STRUCT | kind::UNION);
        if composite(first) && composite(second) {
            return Some(true);
        }
        same_kind(first, second).then_some(())?;
        let (own, other) = (essential(own), essential(other));
        Some(match first {
            kind::PTR | kind::FLOAT | kind::INT => true,
            kind::FWD | kind::ENUM | kind::ENUM64 => own.is_empty() || other.is_empty() || own == other,
            kind::ARRAY => fields_alike(here, here.array(a)?.0, there, there.array(b)?.0, depth),
            _ => false,
        })
    };
    alike().unwrap_or(false)
}

/// Whether one type is the other: libbpf's rules.
fn types_alike(here: &Btf<'_>, a: u32, there: &Btf<'_>, b: u32, depth: usize) -> bool {
    let alike = || {
        let depth = depth.checked_sub(1)?;
        let (a, b) = (here.behind(a)?, there.behind(b)?);
        if a == 0 || b == 0 {
            return Some(a == b);
        }
        let ((first, _), (second, _)) = (here.kind_and_name(a)?, there.kind_and_name(b)?);
        same_kind(first, second).then_some(())?;
        Some(match first {
            kind::PTR => types_alike(here, here.pointed(a)?, there, there.pointed(b)?, depth),
            kind::ARRAY => types_alike(here, here.array(a)?.0, there, there.array(b)?.0, depth),
            kind::FUNC_PROTO | kind::FUNC => false,
            _ => true,
        })
    };
    alike().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_so_much_for_each_record_and_for_all() {
        let budget = Budget::new();
        for _ in 0..MOST_OF_ALL / MOST_OF_ONE {
            budget.begin();
            assert_eq!(budget.visit(MOST_OF_ONE), Some(()));
            assert!(!budget.is_over.get());
            assert_eq!(budget.visit(1), None);
            assert!(budget.is_over.get());
        }
        budget.begin();
        assert_eq!(budget.visit(1), None);
    }

    #[test]
    fn when_it_is_over_nothing_more_is_looked_at() {
        let budget = Budget::new();
        budget.begin();
        assert_eq!((budget.visit(MOST_OF_ONE + 1), budget.visit(1)), (None, None));
        budget.begin();
        assert_eq!(budget.visit(1), Some(()));
    }
}
