//! Shell-like patterns: `*` for any run of bytes, `?` for any one byte, everything else for itself.
//!
//! The pattern comes as an iterator, because the engine reads it straight out of its escaped form. The
//! matcher keeps one point to come back to, that of the last star: on a mismatch the star swallows one byte
//! more. Earlier stars never need another try, so it takes at most pattern × text steps and no memory.

/// Whether all of `text` matches `pattern`.
pub fn matches(pattern: impl Iterator<Item = u8> + Clone, text: &[u8]) -> bool {
    let (mut rest, mut at) = (pattern, 0);
    let mut star = None;
    loop {
        let mut ahead = rest.clone();
        match (ahead.next(), text.get(at)) {
            (Some(b'*'), _) => {
                star = Some((ahead.clone(), at));
                rest = ahead;
            }
            (Some(wanted), Some(&byte)) if wanted == b'?' || wanted == byte => {
                (rest, at) = (ahead, at + 1);
            }
            (None, None) => return true,
            _ => match &mut star {
                Some((after, from)) if *from < text.len() => {
                    *from += 1;
                    (rest, at) = (after.clone(), *from);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    fn matches(pattern: &str, text: &str) -> bool {
        super::matches(pattern.bytes(), text.as_bytes())
    }

    #[test]
    fn stars_and_marks() {
        for (pattern, text) in
            [("", ""), ("*", ""), ("lib*.so*", "libc.so.6"), ("a*b*c", "aXbYbZc"), ("?x", "ax"), ("**a", "a")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("?", ""), ("lib*.so", "libc.so.6"), ("a*b", "aXbY"), ("A", "a")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
