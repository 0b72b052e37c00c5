//! File names and content types from outside, made safe: a name is one component of a path, a type is a type and nothing else.

use percent_encoding::percent_decode_str;

/// Longest file name, in bytes.
const MAX_NAME: usize = 100;
/// Longest ending of a name that is kept when the name is cut, in bytes.
const MAX_ENDING: usize = 16;
/// Longest content type, in bytes.
const MAX_TYPE: usize = 100;
/// Name of a file without one.
pub(crate) const UNNAMED: &str = "file";

/// The last component of `name` with everything replaced that could mean something to a file system or a shell. `None` when
/// nothing is left.
pub(crate) fn safe_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe: String =
        last.chars().map(|c| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' }).collect();
    // No hidden files, no `..`, and nothing that looks like an option.
    let safe = safe.trim_start_matches(['.', '-']);
    if safe.is_empty() {
        return None;
    }
    if safe.len() <= MAX_NAME {
        return Some(safe.to_owned());
    }
    let ending = safe.rfind('.').map_or("", |at| &safe[at..]);
    let ending = if ending.len() <= MAX_ENDING { ending } else { "" };
    Some(format!("{}{ending}", &safe[..safe.floor_char_boundary(MAX_NAME - ending.len())]))
}

/// The file name in a `Content-Disposition` header (RFC 6266): `filename*` before `filename`.
pub(crate) fn name_in_disposition(header: &str) -> Option<String> {
    let parameter =
        |wanted: &str| parameters(header).find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    let extended = parameter("filename*").and_then(|value| {
        let (charset, rest) = value.split_once('\'')?;
        let (_, encoded) = rest.split_once('\'')?;
        let name = charset.eq_ignore_ascii_case("utf-8").then(|| percent_decode_str(encoded).decode_utf8().ok())??;
        safe_name(&name)
    });
    extended.or_else(|| safe_name(&parameter("filename")?))
}

/// The parameters of a header value. A semicolon inside of quotes does not end one.
fn parameters(header: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let mut quoted = false;
    let parts = header.split(move |c| {
        quoted ^= c == '"';
        c == ';' && !quoted
    });
    parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().trim_matches('"').replace('\\', "")))
    })
}

/// The type in a `Content-Type` header, without its parameters. `None` when it does not have the form of a type.
pub(crate) fn content_type(header: &str) -> Option<String> {
    let essence = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let (kind, subtype) = essence.split_once('/')?;
    let is_type = essence.len() <= MAX_TYPE
        && is_token(kind)
        && is_token(subtype)
        && kind.starts_with(|c: char| c.is_ascii_alphabetic());
    is_type.then_some(essence)
}

/// The content type of a file with this name.
pub(crate) fn type_of_name(name: &str) -> String {
    mime_guess::from_path(name).first_or_octet_stream().essence_str().to_owned()
}

/// A name for a file of this type that has none.
pub(crate) fn name_of_type(content_type: &str) -> String {
    let ending = match content_type {
        // Several endings are registered, and the first one is not the usual one.
        "image/jpeg" => Some("jpg"),
        "text/plain" => Some("txt"),
        "application/octet-stream" => None,
        other => mime_guess::get_mime_extensions_str(other).and_then(|endings| endings.first().copied()),
    };
    ending.map_or_else(|| UNNAMED.to_owned(), |ending| format!("{UNNAMED}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_harmless_component() {
        for (name, safe) in [
            ("cat.png", Some("cat.png")),
            ("../../etc/passwd", Some("passwd")),
            ("..\\..\\boot.ini", Some("boot.ini")),
            ("..", None),
            ("", None),
            ("a/", None),
            (".bashrc", Some("bashrc")),
            ("-rf", Some("rf")),
            ("a b;rm *\n\0.png", Some("a_b_rm____.png")),
            ("日本.png", Some("日本.png")),
        ] {
            assert_eq!(safe_name(name).as_deref(), safe, "{name:?}");
        }
        let long = safe_name(&format!("{}.tar", "é".repeat(300))).unwrap();
        assert!(long.len() <= MAX_NAME && long.ends_with("é.tar"), "{long}");
        assert!(safe_name(&format!("a.{}", "x".repeat(300))).unwrap().len() <= MAX_NAME);
    }

    #[test]
    fn the_name_in_a_disposition_is_found() {
        for (header, name) in [
            ("attachment; filename=\"cat.png\"", Some("cat.png")),
            ("attachment; filename=cat.png", Some("cat.png")),
            ("attachment; filename=\"a;b.png\"; size=3", Some("a_b.png")),
            ("attachment; filename=\"x.png\"; filename*=UTF-8''na%C3%AFve.png", Some("naïve.png")),
            ("attachment; filename*=utf-8''..%2F..%2Fetc%2Fpasswd", Some("passwd")),
            ("attachment; filename*=iso-8859-1''x.png; filename=y.png", Some("y.png")),
            ("attachment; filename=\"../../x.sh\"", Some("x.sh")),
            ("inline", None),
            ("attachment; filename=", None),
        ] {
            assert_eq!(name_in_disposition(header).as_deref(), name, "{header}");
        }
    }

    #[test]
    fn a_content_type_has_the_form_of_one() {
        assert_eq!(content_type("Image/PNG").as_deref(), Some("image/png"));
        assert_eq!(content_type("text/html; charset=utf-8").as_deref(), Some("text/html"));
        for header in ["", "png", "image/", "/png", "../etc", "image/png/x", "a b/c", &"x/".repeat(80)] {
            assert_eq!(content_type(header), None, "{header}");
        }
        assert_eq!((type_of_name("a.png"), type_of_name("b")), ("image/png".into(), "application/octet-stream".into()));
        assert_eq!((name_of_type("image/jpeg"), name_of_type("image/png")), ("file.jpg".into(), "file.png".into()));
        assert_eq!(name_of_type("x/y"), "file");
    }
}
