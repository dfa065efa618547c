//! Code: bytes that are written as a [`Draft`], published once, and freed when nobody can run them any more.

use crate::grace;
use crate::space::{Block, Space};
use crate::switch::{self, Form};
use crate::word::WORD;
use core::fmt;
use core::marker::PhantomData;
use std::any::Any;
use std::sync::Arc;

/// Why code could not be placed or led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum CodeError {
    /// There is no room in the space, or not of that size in one piece.
    NoRoom,
    /// The space was made by another process, of which this one is a forked child: its code must be neither
    /// run nor changed here.
    Inherited,
    /// The two are not in the same space, so a direct jump need not reach.
    OtherSpace,
    /// There is no code at that offset, no switch, or no aligned word.
    NotThere,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CodeError::NoRoom => "there is no room for the code",
            CodeError::Inherited => "the code belongs to the process that forked this one",
            CodeError::OtherSpace => "the code lies in another space",
            CodeError::NotThere => "there is no such place in the code",
        })
    }
}

impl std::error::Error for CodeError {}

/// A block that gives itself back. To be dropped when no thread can be in it.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) space: Arc<Space>,
    pub(crate) block: Block,
}

impl Owned {
    pub(crate) fn take(space: &Arc<Space>, len: usize) -> Result<Owned, CodeError> {
        if space.is_inherited() {
            return Err(CodeError::Inherited);
        }
        let block = space.take(len.max(1)).ok_or(CodeError::NoRoom)?;
        Ok(Owned { space: space.clone(), block })
    }

    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.space.memory().address(self.block.offset + offset)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: nobody can be in it, says whoever owns it.
        unsafe { self.space.give_back(self.block) };
    }
}

/// Code in the making: a block that nobody runs yet. Writing is safe, since to run it takes `unsafe`.
#[derive(Debug)]
pub struct Draft {
    owned: Owned,
    len: usize,
    keeps: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Draft {
    /// Room for `len` bytes, at a multiple of 64. They are `int3` until they are written.
    ///
    /// # Errors
    /// [`CodeError::NoRoom`], [`CodeError::Inherited`].
    pub fn take(space: &Arc<Space>, len: usize) -> Result<Draft, CodeError> {
        let owned = Owned::take(space, len)?;
        Ok(Draft { owned, len, keeps: Vec::new() })
    }

    /// Address at which the byte at `offset` will run.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.owned.address(offset)
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset <= self.len && code.len() <= self.len - offset, "more bytes than were asked for");
        // SAFETY: nobody can execute them: the draft is this caller's alone.
        unsafe { self.owned.space.memory().write(self.owned.block.offset + offset, code) };
    }

    /// Lets the code keep what it leads to alive: a [`Gate`](crate::gate::Gate) that it calls, other code,
    /// tables.
    pub fn keep(&mut self, what: Arc<dyn Any + Send + Sync>) {
        self.keeps.push(what);
    }

    /// Ends writing. When this returns no processor has anything in its pipeline that was in these bytes
    /// before.
    #[must_use]
    pub fn publish(self) -> Arc<Code> {
        grace::sync_cores();
        Arc::new(Code { owned: self.owned, len: self.len, keeps: self.keeps })
    }
}

/// Published code. Its bytes stay as they are, but for those that are made to be changed:
/// [words](Code::replace_word) and [`Switch`]es. It is freed with its last owner: an [`Entry`], code that
/// [keeps](Draft::keep) it, or whoever has it.
#[derive(Debug)]
pub struct Code {
    owned: Owned,
    len: usize,
    #[allow(dead_code)]
    keeps: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Code {
    /// Address of the byte at `offset`.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.owned.address(offset)
    }

    /// Bytes that it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its space.
    #[must_use]
    pub fn space(&self) -> &Arc<Space> {
        &self.owned.space
    }

    /// Replaces the aligned [word](crate::word) at `offset`, and returns what was there. Threads see it at
    /// once or soon; all of them after [`grace::sync_cores`].
    ///
    /// # Errors
    /// [`CodeError::NotThere`] if there is no aligned word, [`CodeError::Inherited`].
    ///
    /// # Safety
    /// Both words must be right for every thread that comes there: the old one until [`grace::sync_cores`]
    /// has returned, the new one from now on.
    pub unsafe fn replace_word(&self, offset: usize, word: u64) -> Result<u64, CodeError> {
        if !offset.is_multiple_of(WORD) || offset + WORD > self.len {
            return Err(CodeError::NotThere);
        }
        if self.owned.space.is_inherited() {
            return Err(CodeError::Inherited);
        }
        // SAFETY: within this code; right for everybody, says the caller.
        Ok(unsafe { self.owned.space.memory().replace_word(self.owned.block.offset + offset, word) })
    }
}

/// A place where code begins that is called as an `F`: a type of functions, best an `unsafe` one, such as
/// `unsafe extern "C" fn(u64) -> u64`. It keeps the code alive.
pub struct Entry<F> {
    code: Arc<Code>,
    offset: usize,
    is: PhantomData<F>,
}

impl<F> Clone for Entry<F> {
    fn clone(&self) -> Entry<F> {
        Entry { code: self.code.clone(), offset: self.offset, is: PhantomData }
    }
}

impl<F> fmt::Debug for Entry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:#x})", self.address())
    }
}

impl<F: Copy + Send + Sync + 'static> Entry<F> {
    /// Says that the code at `offset` is an `F`.
    ///
    /// # Errors
    /// [`CodeError::NotThere`] behind the code's end.
    ///
    /// # Safety
    /// `F` must be a type of functions, and what is at `offset` a function of this type, which leads nowhere
    /// but to code that lives as long: its own, what it [keeps](Draft::keep), and what lives for ever.
    /// Whoever calls it by an address that they took (rather than through a [`Gate`](crate::gate::Gate)) must
    /// have this entry or the code meanwhile.
    pub unsafe fn new(code: &Arc<Code>, offset: usize) -> Result<Entry<F>, CodeError> {
        const { assert!(size_of::<F>() == size_of::<usize>(), "a function's type is wanted") };
        if offset >= code.len() {
            return Err(CodeError::NotThere);
        }
        Ok(Entry { code: code.clone(), offset, is: PhantomData })
    }

    /// The function, to be called while this entry lives.
    #[must_use]
    pub fn function(&self) -> F {
        function_at(self.address())
    }
}

impl<F> Entry<F> {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.code.address(self.offset)
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &Arc<Code> {
        &self.code
    }
}

/// An address as a function.
pub(crate) fn function_at<F: Copy>(address: u64) -> F {
    const { assert!(size_of::<F>() == size_of::<u64>()) };
    // SAFETY: of the same size; `F` is a type of functions, said whoever made the entry, and no address of
    // code is zero.
    unsafe { core::mem::transmute_copy(&address) }
}

/// A [switch](mod@crate::switch) in code: an instruction that jumps, or is passed over.
#[derive(Debug)]
pub struct Switch {
    code: Arc<Code>,
    offset: usize,
}

impl Switch {
    /// The switch at `offset`.
    ///
    /// # Errors
    /// [`CodeError::NotThere`] if the byte there is none of a switch.
    ///
    /// # Safety
    /// An instruction must begin there, and code must be right whether it jumps or is passed over; flags must
    /// be dead there.
    pub unsafe fn new(code: &Arc<Code>, offset: usize) -> Result<Switch, CodeError> {
        if offset >= code.len() || switch::form(byte(code, offset)).is_none() {
            return Err(CodeError::NotThere);
        }
        Ok(Switch { code: code.clone(), offset })
    }

    /// The form it has.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        switch::form(byte(&self.code, self.offset))
    }

    /// Lets it have a form. When this returns every thread sees it.
    ///
    /// # Errors
    /// [`CodeError::Inherited`].
    pub fn set(&self, form: Form) -> Result<(), CodeError> {
        let owned = &self.code.owned;
        if owned.space.is_inherited() {
            return Err(CodeError::Inherited);
        }
        let old = byte(&self.code, self.offset);
        let new = switch::opcode_in(old, form).ok_or(CodeError::NotThere)?;
        // SAFETY: one form or the other, both of which are right; another thread's change is to one of them
        // too.
        unsafe { owned.space.memory().replace_byte(owned.block.offset + self.offset, new) };
        grace::sync_cores();
        Ok(())
    }
}

fn byte(code: &Code, offset: usize) -> u8 {
    code.owned.space.memory().byte(code.owned.block.offset + offset)
}
