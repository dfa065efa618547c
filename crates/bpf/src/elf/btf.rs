//! BTF (the kernel's Documentation/bpf/btf.rst), as far as maps, externals and CO-RE relocations need it:
//! variables of a section, structures and their members, enumerations, sizes of types.

/// Kinds of types, bits 24 to 28 of a type's info.
#[allow(missing_docs, reason = "the format's names")]
pub mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// How long a chain of typedefs and qualifiers may be.
const DEEPEST: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    info: u32,
    /// Size, or the type referred to.
    size_or_type: u32,
    /// Where what follows begins.
    more: usize,
}

/// Parsed type information. Type 0 is void.
#[derive(Debug)]
pub struct Btf<'a> {
    types: Vec<Type>,
    data: &'a [u8],
    strings: &'a [u8],
}

/// A member of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub kind: u32,
    /// Where it begins, in bytes.
    pub offset: u32,
    /// The same in bits.
    pub bits: u32,
    /// Bits of a bit field, or 0.
    pub width: u32,
}

/// Whether it is a typedef or a qualifier.
fn is_modifier(kind: u32) -> bool {
    matches!(kind, kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG)
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// Parses a `.BTF` section; `None` when it is malformed.
    pub fn parse(section: &'a [u8]) -> Option<Btf<'a>> {
        if section.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let header = word(section, 4)? as usize;
        let part = |offset: usize, len: usize| {
            let start = header.checked_add(word(section, offset)? as usize)?;
            section.get(start..start.checked_add(word(section, len)? as usize)?)
        };
        let (data, strings) = (part(8, 12)?, part(16, 20)?);
        let mut types = vec![Type { name: 0, info: 0, size_or_type: 0, more: 0 }];
        let mut at = 0;
        while at < data.len() {
            let one = Type {
                name: word(data, at)?,
                info: word(data, at + 4)?,
                size_or_type: word(data, at + 8)?,
                more: at + 12,
            };
            at = one.more + one.more_bytes()?;
            types.push(one);
        }
        Some(Btf { types, data, strings })
    }

    fn get(&self, id: u32) -> Option<Type> {
        self.types.get(id as usize).copied()
    }

    /// How many types there are, void included.
    pub fn count(&self) -> u32 {
        self.types.len() as u32
    }

    /// Kind and name of type `id` itself.
    pub fn kind_and_name(&self, id: u32) -> Option<(u32, &'a str)> {
        let one = self.get(id)?;
        Some((one.kind(), self.string(one.name)?))
    }

    /// The type behind typedefs and qualifiers.
    pub fn behind(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEEPEST {
            let one = self.get(id)?;
            if !is_modifier(one.kind()) {
                return Some(id);
            }
            id = one.size_or_type;
        }
        None
    }

    /// What pointer `id` points to.
    pub fn pointed(&self, id: u32) -> Option<u32> {
        self.get(id).filter(|t| t.kind() == kind::PTR).map(|t| t.size_or_type)
    }

    /// Type of the elements, and their number, of array `id`.
    pub fn array(&self, id: u32) -> Option<(u32, u32)> {
        let array = self.get(id).filter(|t| t.kind() == kind::ARRAY)?;
        Some((word(self.data, array.more)?, word(self.data, array.more + 8)?))
    }

    /// Whether type `id` is a signed integer or an enumeration of signed ones.
    pub fn is_signed(&self, id: u32) -> Option<bool> {
        const SIGNED: u32 = 1 << 24;
        let one = self.strip(id)?;
        Some(match one.kind() {
            kind::INT => word(self.data, one.more)? & SIGNED != 0,
            kind::ENUM | kind::ENUM64 => one.info >> 31 == 1,
            _ => false,
        })
    }

    /// How many values the enumeration `id` has; 0 if it is none.
    pub fn enumerator_count(&self, id: u32) -> usize {
        self.strip(id).filter(|one| matches!(one.kind(), kind::ENUM | kind::ENUM64)).map_or(0, Type::count)
    }

    /// Name and value number `index` of the enumeration `id`.
    pub fn enumerator(&self, id: u32, index: usize) -> Option<(&'a str, u64)> {
        let one = self.strip(id).filter(|one| index < one.count())?;
        let wide = match one.kind() {
            kind::ENUM => false,
            kind::ENUM64 => true,
            _ => return None,
        };
        let signed = one.info >> 31 == 1;
        let at = one.more + index * if wide { 12 } else { 8 };
        let (name, low) = (self.string(word(self.data, at)?)?, word(self.data, at + 4)?);
        let high = match (wide, signed) {
            (true, _) => word(self.data, at + 8)?,
            // As the field of 32 bits says.
            (false, true) if low >> 31 == 1 => u32::MAX,
            (false, _) => 0,
        };
        Some((name, u64::from(low) | u64::from(high) << 32))
    }

    /// The name of type `id`, through typedefs and qualifiers.
    pub fn name_of(&self, id: u32) -> Option<&'a str> {
        self.string(self.strip(id)?.name)
    }

    /// The string at `offset`.
    pub fn string(&self, offset: u32) -> Option<&'a str> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().take(super::LONGEST_NAME + 1).position(|b| *b == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// Through typedefs and qualifiers to the type itself.
    fn strip(&self, id: u32) -> Option<Type> {
        self.get(self.behind(id)?)
    }

    /// Variables of section `name`: offset, name, type.
    pub fn section_variables(&self, name: &str) -> Vec<(u32, &'a str, u32)> {
        let section = self.types.iter().find(|t| t.kind() == kind::DATASEC && self.string(t.name) == Some(name));
        let Some(section) = section else { return Vec::new() };
        let variable = |i: usize| {
            let at = section.more + 12 * i;
            let variable = self.get(word(self.data, at)?)?;
            (variable.kind() == kind::VAR).then_some(())?;
            Some((word(self.data, at + 4)?, self.string(variable.name)?, variable.size_or_type))
        };
        (0..section.count()).filter_map(variable).collect()
    }

    /// How many members the structure or union `id` has; 0 if it is none.
    pub fn member_count(&self, id: u32) -> usize {
        self.strip(id).filter(|one| one.is_composite()).map_or(0, Type::count)
    }

    /// Member number `index` of the structure or union `id`.
    pub fn member(&self, id: u32, index: usize) -> Option<Member<'a>> {
        let one = self.strip(id).filter(|one| one.is_composite() && index < one.count())?;
        let at = one.more + 12 * index;
        let bits = word(self.data, at + 8)?;
        // With the flag set, the upper byte is a bit field's size.
        let (bits, width) = if one.info >> 31 == 1 { (bits & 0xff_ffff, bits >> 24) } else { (bits, 0) };
        let (name, kind) = (self.string(word(self.data, at)?)?, word(self.data, at + 4)?);
        Some(Member { name, kind, offset: bits / 8, bits, width })
    }

    /// Members of the structure or union `id`.
    pub fn members(&self, id: u32) -> impl Iterator<Item = Member<'a>> {
        (0..self.member_count(id)).filter_map(move |index| self.member(id, index))
    }

    /// The number that `int (*name)[number]` stands for.
    pub fn pointed_count(&self, id: u32) -> Option<u32> {
        let pointer = self.strip(id).filter(|t| t.kind() == kind::PTR)?;
        self.count_of(pointer.size_or_type)
    }

    /// Elements of the array `id`.
    pub fn count_of(&self, id: u32) -> Option<u32> {
        let array = self.strip(id).filter(|t| t.kind() == kind::ARRAY)?;
        word(self.data, array.more + 8)
    }

    /// The type that the elements of array `id` point to.
    pub fn pointed_element(&self, id: u32) -> Option<u32> {
        let array = self.strip(id).filter(|t| t.kind() == kind::ARRAY)?;
        let pointer = self.strip(word(self.data, array.more)?).filter(|t| t.kind() == kind::PTR)?;
        Some(pointer.size_or_type)
    }

    /// The size of the type that pointer `id` points to.
    pub fn pointed_size(&self, id: u32) -> Option<u32> {
        let pointer = self.strip(id).filter(|t| t.kind() == kind::PTR)?;
        self.size(pointer.size_or_type, DEEPEST)
    }

    /// The size of type `id` in bytes.
    pub fn size_of(&self, id: u32) -> Option<u32> {
        self.size(id, DEEPEST)
    }

    fn size(&self, id: u32, depth: usize) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let one = self.strip(id)?;
        match one.kind() {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => Some(one.size_or_type),
            kind::PTR => Some(8),
            kind::ARRAY => {
                let element = self.size(word(self.data, one.more)?, depth)?;
                element.checked_mul(word(self.data, one.more + 8)?)
            }
            _ => None,
        }
    }
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn is_composite(self) -> bool {
        matches!(self.kind(), kind::STRUCT | kind::UNION)
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Bytes that follow the three words that all types have.
    fn more_bytes(self) -> Option<usize> {
        Some(match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.count(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.count(),
            1..=19 => 0,
            _ => return None,
        })
    }
}
