//! Fixed lists of short words that are asked with every request, nearly always in vain.

/// A list of lower-case words of 1 to 31 bytes. Most questions end at a look at first letter and length.
#[derive(Debug)]
pub struct Words<const N: usize> {
    words: [&'static str; N],
    /// For each first letter, a bit for every length that occurs.
    lengths: [u32; 128],
}

impl<const N: usize> Words<N> {
    /// Builds the list, at compile time when it is a constant.
    pub const fn new(words: [&'static str; N]) -> Self {
        let mut lengths = [0; 128];
        let mut at = 0;
        while at < N {
            let word = words[at].as_bytes();
            lengths[word[0] as usize] |= 1 << word.len();
            at += 1;
        }
        Self { words, lengths }
    }

    #[cfg(test)]
    pub fn as_slice(&self) -> &[&'static str] {
        &self.words
    }

    /// Whether a word stands in the list after each of its bytes was folded; `fold` must not change a first letter
    /// except to lower-case.
    pub fn contains(&self, word: &[u8], fold: impl Fn(u8) -> u8) -> bool {
        let Some(first) = word.first() else {
            return false;
        };
        let lengths = self.lengths[usize::from(first.to_ascii_lowercase() & 0x7f)];
        if word.len() > 31 || lengths & (1 << word.len()) == 0 {
            return false;
        }
        let is_same = |known: &&str| {
            known.len() == word.len() && known.bytes().eq(word.iter().map(|byte| fold(*byte)))
        };
        self.words.iter().any(is_same)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_case_and_nothing_else_is() {
        let list = Words::new(["abc", "abd", "b", "a-b"]);
        let has = |word: &str| list.contains(word.as_bytes(), |byte| byte.to_ascii_lowercase());
        assert!(["abc", "ABD", "B", "A-b"].iter().all(|word| has(word)));
        assert!(
            ![
                "",
                "a",
                "ab",
                "abe",
                "c",
                "a_b",
                "ü",
                &"a".repeat(32),
                &"a".repeat(35)
            ]
            .iter()
            .any(|word| has(word))
        );
        assert!(list.contains(b"a_b", |byte| if byte == b'_' { b'-' } else { byte }));
    }
}
