//! Names that say nothing, and words of other projects and machines.

use crate::tree::Tree;

/// Words of a type's name that say nothing about what the thing is.
const WORDS: [&str; 11] = [
    "Manager",
    "Helper",
    "Helpers",
    "Util",
    "Utils",
    "Impl",
    "Base",
    "Abstract",
    "Processor",
    "Service",
    "Factory",
];
/// File and folder names, without their ending.
const FILES: [&str; 9] =
    ["mod", "common", "misc", "util", "utils", "helper", "helpers", "manager", "factory"];
const DECLARATIONS: [&str; 5] = ["struct ", "enum ", "trait ", "type ", "union "];

/// Put together here, so that this file does not hold them itself.
fn foreign_words() -> [String; 6] {
    ["../sha|red", "/wo|rk/main", "/wo|rk/shared", "deb.debian|.org", "registry.npmjs|.org", "pypi|.org/"]
        .map(|word| word.replace('|', ""))
}

pub(crate) fn banned(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for folder in ["agent/", "broker/", "tests/"] {
        for (path, code) in tree.code(folder) {
            let names = path.trim_end_matches(".rs").split('/');
            violations.extend(
                names.filter(|name| FILES.contains(name)).map(|name| format!("{path}: named {name}")),
            );
            for declared in code.lines().filter_map(declared_name) {
                if let Some(word) = camel_words(declared).into_iter().find(|word| WORDS.contains(word)) {
                    violations.push(format!("{path}: {declared} holds {word}"));
                }
            }
        }
    }
    violations
}

/// Other checkouts, this machine's folders, addresses of package registries: the project has to stand alone.
pub(crate) fn foreign(tree: &Tree) -> Vec<String> {
    let words = foreign_words();
    let mut violations = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| !path.starts_with(".git")) {
        let found = words.iter().filter(|word| text.contains(word.as_str()));
        violations.extend(found.map(|word| format!("{path}: speaks of {word}")));
    }
    violations
}

/// The name a line declares, when it declares a type.
fn declared_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let rest = DECLARATIONS.iter().find_map(|keyword| line.strip_prefix(keyword))?;
    Some(word(rest))
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(text)
}

/// `SendServiceImpl` → `Send`, `Service`, `Impl`.
fn camel_words(name: &str) -> Vec<&str> {
    let starts: Vec<usize> =
        name.char_indices().filter(|(_, c)| c.is_uppercase()).map(|(index, _)| index).collect();
    let ends = starts.iter().skip(1).copied().chain([name.len()]);
    starts.iter().zip(ends).map(|(start, end)| &name[*start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::{banned, foreign, foreign_words};
    use crate::tree::Tree;

    #[test]
    fn empty_words_are_found() {
        let tree = Tree::of(&[
            ("broker/src/a.rs", "pub(crate) struct SendManager;\nstruct Database;\ntrait HttpService {}\n"),
            ("broker/src/common/b.rs", "pub enum Fine {}\n"),
            ("broker/src/c/mod.rs", "// struct TopicUtil\n"),
        ]);
        let found = banned(&tree);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn foreign_words_are_found() {
        let text = format!("see {}", foreign_words()[0]);
        assert_eq!(foreign(&Tree::of(&[("README.md", &text), ("agent/a.rs", "fine")])).len(), 1);
    }
}
