//! The settings of overflow and of load balancing, as they stand in a configuration file.

use crate::commands::program;

#[tokio::test]
async fn the_settings_of_the_guide_are_accepted() {
    let guide = include_str!("../../../../docs/endpoint.md");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.toml");
    for (setting, shown) in
        [("overflow =", "images.overflow-max-dollars-per-hour"), ("load_balancer =", "chat.load-balancer-bind")]
    {
        let block = guide.split("```").find(|block| block.starts_with("toml") && block.contains(setting)).unwrap();
        std::fs::write(&path, block.strip_prefix("toml").unwrap()).unwrap();
        let mut command = program();
        command.args(["serve", "--check-config", "--config"]).arg(&path).env("RUNPOD_API_KEY", "hunter2");
        let output = command.output().await.unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(lines.contains(shown) && !lines.contains("hunter2"), "{lines}");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    for (overflow, bind, part) in [
        ("url = \"http://127.0.0.1:7777/v2/ep\", after = \"1s\"", "127.0.0.1:7777", "this endpoint itself"),
        ("url = \"http://localhost:7777/v2/ep/\", after = \"1s\"", "0.0.0.0:7777", "this endpoint itself"),
        ("url = \"https://h/v2/e\", after = \"1s\", key_env = \"NO_SUCH_KEY\"", "127.0.0.1:0", "NO_SUCH_KEY"),
        ("url = \"https://user:hunter2@h/v2/e\", after = \"1s\"", "127.0.0.1:0", "key_file"),
    ] {
        let path = folder.path().join("endpoints.toml");
        std::fs::write(&path, format!("[[endpoint]]\nid = \"ep\"\noverflow = {{ {overflow} }}")).unwrap();
        let args = ["serve", "--insecure-no-auth", "--check-config", "--bind", bind, "--config"];
        let output = program().args(args).arg(&path).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
}
