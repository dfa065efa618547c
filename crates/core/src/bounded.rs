//! Reading and writing slices without a way to panic.
//!
//! The kernel module links no panic at all: one that the compiler cannot rule out is an undefined symbol
//! there, and the build fails. So what the module uses of this crate indexes through these. Indices are right
//! by construction everywhere; these functions only say what happens if they were not, which is nothing
//! harmful.

/// Element `i`, or the default past the end.
pub(crate) fn at<T: Copy + Default>(items: &[T], i: usize) -> T {
    items.get(i).copied().unwrap_or_default()
}

/// Sets element `i`, if there is one.
pub(crate) fn put<T>(items: &mut [T], i: usize, value: T) {
    if let Some(slot) = items.get_mut(i) {
        *slot = value;
    }
}

/// The first `n` elements, or all when there are fewer.
pub(crate) fn first<T>(items: &[T], n: usize) -> &[T] {
    items.get(..n).unwrap_or(items)
}

/// [`first`], to be changed.
pub(crate) fn first_mut<T>(items: &mut [T], n: usize) -> &mut [T] {
    let n = n.min(items.len());
    match items.get_mut(..n) {
        Some(items) => items,
        None => &mut [],
    }
}

/// What follows the first `n` elements.
pub(crate) fn after<T>(items: &[T], n: usize) -> &[T] {
    items.get(n..).unwrap_or_default()
}

/// Swaps two elements, if there are both.
pub(crate) fn swap<T: Copy>(items: &mut [T], a: usize, b: usize) {
    if let (Some(&one), Some(&other)) = (items.get(a), items.get(b)) {
        put(items, a, other);
        put(items, b, one);
    }
}
