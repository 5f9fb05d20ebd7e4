//! The checkout as tidy sees it: paths and texts, read once; and Rust sources reduced to what counts as code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Built, downloaded or run here; never part of the project.
const SKIPPED: [&str; 5] = ["target", "data", "node_modules", ".git", "__pycache__"];
/// Fixtures are data, however many; nothing to check in them.
const UNREAD: &str = "tests/fixtures";

/// Path from the checkout's top → text.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, String>,
    /// Names at the top level, folders included.
    pub(crate) top: Vec<String>,
}

impl Tree {
    pub(crate) fn read(checkout: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        for entry in fs::read_dir(checkout)? {
            tree.top.push(entry?.file_name().to_string_lossy().into_owned());
        }
        tree.read_folder(checkout, "")?;
        Ok(tree)
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if SKIPPED.contains(&name.as_str()) || path == UNREAD {
                continue;
            }
            if entry.file_type()?.is_dir() {
                self.read_folder(&entry.path(), &format!("{path}/"))?;
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                self.files.insert(path, text);
            }
        }
        Ok(())
    }

    /// For planting: the same rules over made-up files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Tree { files: files.collect(), top: Vec::new() }
    }

    /// Files below a folder with this ending.
    pub(crate) fn under<'a>(
        &'a self,
        folder: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(move |(path, _)| path.starts_with(folder) && path.ends_with(ending))
    }

    /// The Rust code of the product below a folder: no test modules, no comments, no texts.
    pub(crate) fn code<'a>(&'a self, folder: &'a str) -> Vec<(&'a str, String)> {
        let sources = self.under(folder, ".rs").filter(|(path, _)| !is_test_file(path));
        sources.map(|(path, text)| (path, code_of(before_tests(text)))).collect()
    }
}

/// A source that only the test build includes.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

/// The text before the file's test module.
pub(crate) fn before_tests(text: &str) -> &str {
    let mut at = 0;
    let mut previous = (0, "");
    for line in text.split_inclusive('\n') {
        let is_module =
            line.starts_with("mod ") || line.starts_with("pub mod ") || line.starts_with("pub(crate) mod ");
        if is_module && previous.1.trim_end() == "#[cfg(test)]" {
            return text.get(..previous.0).unwrap_or(text);
        }
        previous = (at, line);
        at += line.len();
    }
    text
}

/// Blanks comments and the contents of texts, keeping line breaks.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => position(&chars, i, "\n"),
            ('/', '*') => position(&chars, i + 2, "*/") + 2,
            ('"', _) => string_end(&chars, i),
            ('r', '"' | '#') if !is_word(at(i.wrapping_sub(1))) => raw_string_end(&chars, i),
            // A char literal, not a lifetime: it closes within four characters.
            ('\'', '\\') => position(&chars, i + 3, "'") + 1,
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => {
                out.push(at(i));
                i += 1;
                continue;
            }
        };
        let end = end.clamp(i + 1, chars.len());
        out.extend(chars[i..end].iter().filter(|c| **c == '\n'));
        out.push(' ');
        i = end;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn position(chars: &[char], from: usize, wanted: &str) -> usize {
    let wanted: Vec<char> = wanted.chars().collect();
    (from..chars.len()).find(|&i| chars[i..].starts_with(&wanted)).unwrap_or(chars.len())
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return start + 1; // a raw identifier such as r#type
    }
    let close = format!("\"{}", "#".repeat(hashes));
    position(chars, start + 2 + hashes, &close) + close.len()
}

/// Every path that starts at this crate or module and is not the middle of a longer one: `wire::message::X` gives
/// `message::X` for `wire`. Names imported in braces are given one by one.
pub(crate) fn paths_into<'a>(code: &'a str, root: &str) -> Vec<&'a str> {
    let needle = format!("{root}::");
    let mut found = Vec::new();
    for (index, _) in code.match_indices(&needle) {
        let before = code[..index].chars().next_back().unwrap_or(' ');
        if is_word(before) || before == ':' {
            continue;
        }
        let rest = code[index + needle.len()..].trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_names(group));
        } else {
            let end = rest.find(|c: char| !is_word(c) && c != ':').unwrap_or(rest.len());
            found.push(&rest[..end]);
        }
    }
    found
}

/// The first level of `a, b::{c, d}, e}`.
fn group_names(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(group[start..index].trim());
                start = index + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::{before_tests, code_of, paths_into};

    #[test]
    fn code_has_no_comments_and_no_texts() {
        let text = "let a = \"std::fs \\\" x\"; // std::fs\n/* std::fs */ let r = r#\"std::fs\"#; let c = '\"'; f(b'\\'');";
        let code = code_of(text);
        assert!(!code.contains("std::fs"), "{code}");
        assert!(code.contains("let c ="), "{code}");
        assert!(code.contains("f(b"), "{code}");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_stay_code() {
        assert_eq!(code_of("fn f<'a>(x: &'a r#type) {}").replace(' ', ""), "fnf<'a>(x:&'a#type){}");
    }

    #[test]
    fn the_test_module_is_cut_off() {
        assert_eq!(
            before_tests("a\n#[cfg(test)]\nuse x;\nb\n#[cfg(test)]\nmod tests {\n"),
            "a\n#[cfg(test)]\nuse x;\nb\n"
        );
    }

    #[test]
    fn paths_start_at_the_root_only() {
        let code =
            "use wire::message::A; use wire::{code::{X, Y}, frame}; crate::wire::no; my_wire::no; wire :: no";
        assert_eq!(paths_into(code, "wire"), ["message::A", "code::{X, Y}", "frame"]);
    }
}
