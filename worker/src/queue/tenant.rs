//! The field of a job that names its tenant. Beside the fields of the protocol it is the only part of a job that the worker
//! reads, and only with `--tenant-field`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::MAX_TENANT_LEN;

/// A field of the job: `tenant`, or a path into it such as `input.tenant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantField(Vec<String>);

impl FromStr for TenantField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) {
            return Err("name a field of the job, such as `tenant`, or a path such as `input.tenant`".to_owned());
        }
        Ok(Self(names))
    }
}

impl fmt::Display for TenantField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl TenantField {
    /// The value of the field, if it is a text or a number. Only the objects along the path are parsed.
    pub fn read(&self, job: &[u8]) -> Option<String> {
        let mut value: &RawValue = serde_json::from_slice(job).ok()?;
        for name in &self.0 {
            let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(value.get()).ok()?;
            value = fields.remove(name.as_str())?;
        }
        let tenant = match serde_json::from_str(value.get()).ok()? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let tenant: String = tenant.chars().filter(|c| !c.is_control()).take(MAX_TENANT_LEN).collect();
        (!tenant.is_empty()).then_some(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_or_a_number_at_the_path_is_the_tenant() {
        let long = format!(r#"{{"tenant":"{}"}}"#, "x".repeat(100));
        let table = [
            ("tenant", r#"{"id":"j","tenant":"acme"}"#, Some("acme")),
            ("tenant", r#"{"id":"j","tenant":7}"#, Some("7")),
            ("input.tenant", r#"{"input":{"tenant":"a\nb"},"tenant":"not this"}"#, Some("ab")),
            ("input.user.org", r#"{"input":{"user":{"org":"o"}}}"#, Some("o")),
            ("tenant", r#"{"id":"j"}"#, None),
            ("tenant", r#"{"tenant":null}"#, None),
            ("tenant", r#"{"tenant":{"a":1}}"#, None),
            ("tenant", r#"{"tenant":""}"#, None),
            ("input.tenant", r#"{"input":"acme"}"#, None),
            ("input.tenant", r#"{"input":["acme"]}"#, None),
            ("tenant", long.as_str(), Some(&long[11..75])),
        ];
        for (field, job, tenant) in table {
            let field: TenantField = field.parse().unwrap();
            assert_eq!(field.read(job.as_bytes()).as_deref(), tenant, "{field} of {job}");
        }
    }

    #[test]
    fn a_path_has_no_empty_part() {
        for bad in ["", ".", "a.", ".a", "a..b"] {
            assert!(bad.parse::<TenantField>().is_err(), "{bad}");
        }
    }
}
