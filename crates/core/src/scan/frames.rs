//! Function ranges from `.eh_frame_hdr`.
//!
//! The header is a table of (function start, unwind entry) pairs, sorted, both as four-byte offsets from
//! the header itself, so a look-up is one binary search in read-only memory. A function's length stands in
//! its unwind entry (FDE) in `.eh_frame`, in an encoding that the entry's parent (CIE) names under the
//! letter `R` of its augmentation string. (Linux Standard Base, "Exception Frames".)
//!
//! Nothing here trusts the bytes: every read is bounded, and what does not fit is "no function known".

use super::{Function, Functions, Region};

/// Table entries with two four-byte offsets from the header: the only form linkers write.
const DATAREL_SDATA4: u8 = 0x3b;
/// One table entry.
const ENTRY: usize = 8;

/// The look-up table of a mapped or loaded `.eh_frame_hdr`.
#[derive(Clone, Copy, Debug)]
pub struct EhFrameHdr<'a> {
    address: u64,
    table: &'a [u8],
    frames: Region<'a>,
}

impl<'a> EhFrameHdr<'a> {
    /// Reads the header's first bytes. `frames` is any region that holds `.eh_frame`; usually the segment
    /// that holds the header does.
    #[must_use]
    pub fn parse(header: Region<'a>, frames: Region<'a>) -> Option<EhFrameHdr<'a>> {
        let mut reader = Reader { bytes: header.bytes };
        let [1, frame_encoding, count_encoding, DATAREL_SDATA4] = reader.array()? else {
            return None;
        };
        reader.encoded(frame_encoding)?;
        let count = usize::try_from(reader.encoded(count_encoding)?).ok()?;
        let table = reader.bytes.get(..count.checked_mul(ENTRY)?)?;
        Some(EhFrameHdr { address: header.address, table, frames })
    }

    /// Where the header says that `.eh_frame` starts, which may be in another segment; it says so without a
    /// table, too.
    #[must_use]
    pub fn frames(header: Region<'_>) -> Option<u64> {
        let mut reader = Reader { bytes: header.bytes };
        let [1, encoding, _, _] = reader.array()? else {
            return None;
        };
        let offset = reader.encoded(encoding)?;
        match encoding & 0xf0 {
            0x00 => Some(offset.cast_unsigned()),
            0x10 => Some(header.address.wrapping_add(4).wrapping_add_signed(offset)),
            0x30 => Some(header.address.wrapping_add_signed(offset)),
            _ => None,
        }
    }

    /// The number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() / ENTRY
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The function number `index` by ascending start, `None` past the end or where its entry is broken.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Function> {
        let at = index.checked_mul(ENTRY)?;
        let mut reader = Reader { bytes: self.table.get(at..)? };
        let start = self.absolute(reader.i32()?);
        let frame = self.absolute(reader.i32()?);
        let function = range(&self.frames, frame)?;
        (function.start == start && function.end > start).then_some(function)
    }

    /// What the function around `address` has on the stack there.
    #[must_use]
    pub fn frame_at(&self, address: u64) -> Frame {
        let look_up = || {
            let offset = i32::try_from(address.wrapping_sub(self.address).cast_signed()).ok()?;
            let at = self.starting_by(offset).checked_sub(1)?.checked_mul(ENTRY)?;
            let mut reader = Reader { bytes: self.table.get(at + 4..)? };
            let frame = self.absolute(reader.i32()?);
            range(&self.frames, frame)?.contains(address).then_some(frame)
        };
        let Some(frame) = look_up() else { return Frame::Unknown };
        match row_at(&self.frames, frame, address).and_then(Row::check) {
            Some(row) if row.is_frameless() => Frame::Frameless,
            Some(row) => Frame::Row(row),
            None => Frame::Inexpressible,
        }
    }

    fn absolute(&self, offset: i32) -> u64 {
        self.address.wrapping_add_signed(i64::from(offset))
    }

    /// The number of functions that start at or before the address `offset` from the header.
    fn starting_by(&self, offset: i32) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let mut reader = Reader { bytes: &self.table[middle * ENTRY..] };
            if reader.i32().is_some_and(|start| start <= offset) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl Functions for EhFrameHdr<'_> {
    fn containing(&self, address: u64) -> Option<Function> {
        let offset = i32::try_from(address.wrapping_sub(self.address).cast_signed()).ok()?;
        let function = self.get(self.starting_by(offset).checked_sub(1)?)?;
        function.contains(address).then_some(function)
    }
}

/// Calls `found` for the functions of an `.eh_frame` that starts at `start` in `frames`, in no order, up to
/// its end or to what is no entry.
pub fn each_frame(frames: Region<'_>, start: u64, found: &mut dyn FnMut(Function)) {
    let mut at = start;
    loop {
        let mut reader = Reader { bytes: frames.from(at).unwrap_or_default() };
        let Some(size) = reader.u32().filter(|&size| size != 0 && size != u32::MAX) else { return };
        // A number of 0 where an entry names its parent: it is a parent itself.
        if reader.u32().is_some_and(|back| back != 0)
            && let Some(function) = range(&frames, at).filter(|function| function.start < function.end)
        {
            found(function);
        }
        at = at.wrapping_add(4).wrapping_add(u64::from(size));
    }
}

/// The range of the FDE at `frame`.
fn range(frames: &Region<'_>, frame: u64) -> Option<Function> {
    let mut reader = Reader { bytes: frames.from(frame)? };
    let size = reader.u32()?;
    // The 64-bit form (length ffffffff) is for entries beyond 4 GiB; nobody writes it.
    if size == 0 || size == u32::MAX {
        return None;
    }
    let back = u64::from(reader.u32()?);
    let cie = frame.wrapping_add(4).wrapping_sub(back);
    let encoding = address_encoding(frames, cie)?;
    let field = frame.wrapping_add(8);
    let start = match encoding & 0x70 {
        0x00 => reader.encoded(encoding)?.cast_unsigned(),
        0x10 => field.wrapping_add_signed(reader.encoded(encoding)?),
        _ => return None,
    };
    let length = reader.encoded(encoding & 7)?;
    let end = start.checked_add(length.cast_unsigned())?;
    Some(Function::new(start, end))
}

/// What a function has on the stack at one of its instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The return address is on top of the stack, as before a tail call: the function has given its frame up.
    Frameless,
    /// A frame that a [`Row`] describes.
    Row(Row),
    /// One that is described by expressions, or by rules that nobody writes.
    Inexpressible,
    /// No unwind rules are known.
    Unknown,
}

/// Registers of which a [`Row`] knows, by DWARF's numbers: the general ones, and the return address as number
/// 16.
pub const ROW_REGISTERS: usize = 17;
/// DWARF's numbers of the stack pointer and the return address.
const RSP: u64 = 7;
const RETURN: usize = 16;

/// Where a function's canonical frame address is at one instruction, and where its caller's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// DWARF's number of the register from which the canonical frame address is counted, …
    pub register: u8,
    /// … and the distance of that address from it.
    pub distance: i32,
    /// For each register how far from the canonical frame address the caller's value lies, in bytes; 0 where
    /// the register still holds it. A return address of 0 means that there is no caller.
    pub saved: [i16; ROW_REGISTERS],
}

/// Says of a register that its place is not one that a row can hold.
const ELSEWHERE: i16 = i16::MIN;
/// As the number of the frame address' register: it is an expression.
const EXPRESSION: u8 = u8::MAX;

impl Row {
    const EMPTY: Row = Row { register: 0, distance: 0, saved: [0; ROW_REGISTERS] };

    /// Whether the canonical frame address is right above the return address: what registers it says are
    /// saved, the function has taken back, and their places are no longer its own.
    fn is_frameless(&self) -> bool {
        u64::from(self.register) == RSP && self.distance == 8
    }

    /// `None` for what is not meant literally.
    fn check(self) -> Option<Row> {
        let is_literal = self.register < RETURN as u8 && (self.is_frameless() || !self.saved.contains(&ELSEWHERE));
        is_literal.then_some(self)
    }

    /// The caller's value of a register is `words` times the alignment of data away from the frame address.
    fn save(&mut self, register: u64, words: i64, alignment: i64) {
        let place = words.checked_mul(alignment).and_then(|distance| i16::try_from(distance).ok());
        self.set(register, place.filter(|place| *place != 0 && place % 8 == 0).unwrap_or(ELSEWHERE));
    }

    /// Beyond those known there are vector registers: of a function that saves one, nothing can be said.
    fn set(&mut self, register: u64, place: i16) {
        if let Some(saved) = usize::try_from(register).ok().and_then(|register| self.saved.get_mut(register)) {
            *saved = place;
        } else {
            self.saved[RETURN] = ELSEWHERE;
        }
    }

    fn count_from(&mut self, register: u64) {
        self.register = u8::try_from(register).unwrap_or(EXPRESSION);
    }

    fn at_distance(&mut self, distance: Option<i64>) {
        match distance.and_then(|distance| i32::try_from(distance).ok()) {
            Some(distance) => self.distance = distance,
            None => self.register = EXPRESSION,
        }
    }
}

/// The row at `address`, by the FDE at `frame`; `None` where that is not understood.
fn row_at(frames: &Region<'_>, frame: u64, address: u64) -> Option<Row> {
    let mut reader = Reader { bytes: frames.from(frame)? };
    let mut rules = Reader { bytes: reader.sized()? };
    let cie = frame.wrapping_add(4).wrapping_sub(u64::from(rules.u32()?));
    let encoding = address_encoding(frames, cie)?;
    let start = range(frames, frame)?.start;
    rules.encoded(encoding)?;
    rules.encoded(encoding & 7)?;
    let mut parent = Reader { bytes: Reader { bytes: frames.from(cie)? }.sized()? };
    parent.u32()?;
    let version = parent.u8()?;
    let augmentation = parent.string()?;
    let mut program = Program {
        code_alignment: parent.uleb128()?,
        data_alignment: parent.sleb128()?,
        row: Row::EMPTY,
        first: Row::EMPTY,
        remembered: [Row::EMPTY; 8],
        depth: 0,
    };
    let column = if version == 1 { u64::from(parent.u8()?) } else { parent.uleb128()? };
    // In a signal frame, an address is that of the instruction that comes next.
    (column == RETURN as u64 && !augmentation.contains(&b'S')).then_some(())?;
    if augmentation.first() == Some(&b'z') {
        for reader in [&mut parent, &mut rules] {
            let skipped = usize::try_from(reader.uleb128()?).ok()?;
            reader.bytes = reader.bytes.get(skipped..)?;
        }
    }
    program.run(parent, u64::MAX)?;
    program.first = program.row;
    program.run(rules, address.wrapping_sub(start))?;
    Some(program.row)
}

/// Call frame instructions.
struct Program {
    code_alignment: u64,
    data_alignment: i64,
    row: Row,
    /// As the CIE leaves it.
    first: Row,
    remembered: [Row; 8],
    depth: usize,
}

impl Program {
    /// Runs what holds `distance` bytes into the function. (DWARF 5, 6.4.2.)
    fn run(&mut self, mut r: Reader<'_>, distance: u64) -> Option<()> {
        let mut at = 0u64;
        while !r.bytes.is_empty() {
            let op = r.u8()?;
            let mut advance = 0;
            let scale = self.data_alignment;
            match (op >> 6, op & 0x3f) {
                (1, by) => advance = u64::from(by),
                (2, register) => self.row.save(register.into(), r.uleb128()?.cast_signed(), scale),
                (3, register) => self.restore(register.into()),
                (0, 0x00) => {}
                (0, 0x02) => advance = u64::from(r.u8()?),
                (0, 0x03) => advance = u64::from(u16::from_le_bytes(r.array()?)),
                (0, 0x04) => advance = u64::from(r.u32()?),
                (0, 0x05) => self.row.save(r.uleb128()?, r.uleb128()?.cast_signed(), scale),
                (0, 0x11) => self.row.save(r.uleb128()?, r.sleb128()?, scale),
                (0, 0x06) => self.restore(r.uleb128()?),
                // Nobody knows what was in it, or it still holds it: without a caller, or a caller that does
                // not want it.
                (0, 0x07 | 0x08) => self.row.set(r.uleb128()?, 0),
                (0, 0x09 | 0x14 | 0x15 | 0x2f) => {
                    let register = r.uleb128()?;
                    r.uleb128()?;
                    self.row.set(register, ELSEWHERE);
                }
                (0, 0x2e) => _ = r.uleb128()?,
                (0, 0x0a) => {
                    *self.remembered.get_mut(self.depth)? = self.row;
                    self.depth += 1;
                }
                (0, 0x0b) => {
                    self.depth = self.depth.checked_sub(1)?;
                    self.row = *self.remembered.get(self.depth)?;
                }
                (0, 0x0c) => {
                    self.row.count_from(r.uleb128()?);
                    self.row.at_distance(Some(r.uleb128()?.cast_signed()));
                }
                (0, 0x0d) => self.row.count_from(r.uleb128()?),
                (0, 0x0e) => self.row.at_distance(Some(r.uleb128()?.cast_signed())),
                (0, 0x12) => {
                    self.row.count_from(r.uleb128()?);
                    self.row.at_distance(r.sleb128()?.checked_mul(scale));
                }
                (0, 0x13) => self.row.at_distance(r.sleb128()?.checked_mul(scale)),
                (0, 0x0f) => {
                    self.row.register = EXPRESSION;
                    r.skip_block()?;
                }
                (0, 0x10 | 0x16) => {
                    self.row.set(r.uleb128()?, ELSEWHERE);
                    r.skip_block()?;
                }
                _ => return None,
            }
            at = at.checked_add(advance.checked_mul(self.code_alignment)?)?;
            if at > distance {
                return Some(());
            }
        }
        Some(())
    }

    fn restore(&mut self, register: u64) {
        let first = usize::try_from(register).ok().and_then(|register| self.first.saved.get(register));
        self.row.set(register, first.copied().unwrap_or(ELSEWHERE));
    }
}

/// How the FDEs of a CIE hold addresses.
fn address_encoding(frames: &Region<'_>, cie: u64) -> Option<u8> {
    let mut reader = Reader { bytes: frames.from(cie)? };
    let [_, 0] = [reader.u32()?, reader.u32()?] else {
        return None;
    };
    let version = reader.u8()?;
    let augmentation = reader.string()?;
    let Some((b'z', letters)) = augmentation.split_first() else {
        return augmentation.is_empty().then_some(0);
    };
    reader.uleb128()?; // code alignment
    reader.uleb128()?; // data alignment
    if version == 1 {
        reader.u8()?; // return address register
    } else {
        reader.uleb128()?;
    }
    reader.uleb128()?; // length of what follows
    for letter in letters {
        match letter {
            b'R' => return reader.u8(),
            b'L' => _ = reader.u8()?,
            b'P' => {
                let encoding = reader.u8()?;
                reader.encoded(encoding)?;
            }
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(0)
}

/// Bounded reading.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    /// The value of a pointer encoding's format (its low four bits), not yet made absolute.
    fn encoded(&mut self, encoding: u8) -> Option<i64> {
        match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => self.array().map(i64::from_le_bytes),
            0x02 => self.array().map(u16::from_le_bytes).map(i64::from),
            0x0a => self.array().map(i16::from_le_bytes).map(i64::from),
            0x03 => self.u32().map(i64::from),
            0x0b => self.i32().map(i64::from),
            _ => None,
        }
    }

    /// A number in LEB128, which is at most ten bytes long. (The signed form has the same length.)
    fn uleb128(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The signed form.
    fn sleb128(&mut self) -> Option<i64> {
        let before = self.bytes;
        let value = self.uleb128()?.cast_signed();
        let bits = 7 * (before.len() - self.bytes.len());
        Some(if bits < 64 { value << (64 - bits) >> (64 - bits) } else { value })
    }

    /// What follows a length of four bytes; an entry's own.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes.get(..usize::try_from(len).ok()?)
    }

    fn skip_block(&mut self) -> Option<()> {
        let len = usize::try_from(self.uleb128()?).ok()?;
        self.bytes = self.bytes.get(len..)?;
        Some(())
    }

    /// A string up to its zero byte. Augmentation strings are a few letters.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.bytes.iter().take(16).position(|&byte| byte == 0)?;
        let string = &self.bytes[..end];
        self.bytes = &self.bytes[end + 1..];
        Some(string)
    }
}
