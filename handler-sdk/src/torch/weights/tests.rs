use safetensors::serialize_to_file;
use safetensors::tensor::TensorView;
use tch::Device;
use tch::nn::Init;

use super::*;

type Entry = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write(path: &Path, tensors: &[Entry]) {
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

fn file(tensors: &[Entry]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), tensors);
    file
}

fn model() -> (VarStore, Tensor, Tensor) {
    let vars = VarStore::new(Device::Cpu);
    let weight = (vars.root() / "layer").var("weight", &[2, 2], Init::Const(0.0));
    let bias = (vars.root() / "layer").var("bias", &[2], Init::Const(0.0));
    (vars, weight, bias)
}

#[test]
fn every_variable_is_filled_and_half_floats_are_converted() {
    let (vars, weight, bias) = model();
    // 1.0 and -2.0 as bfloat16.
    let halves = vec![0x80, 0x3f, 0x00, 0xc0];
    let file = file(&[
        ("layer.weight", Dtype::F32, vec![2, 2], floats(&[1.0, 2.0, 3.0, 4.0])),
        ("layer.bias", Dtype::BF16, vec![2], halves),
        ("position_ids", Dtype::I64, vec![1], vec![0; 8]),
    ]);
    load_safetensors(&vars, file.path(), &LoadEnv::for_tests("cpu")).unwrap();
    assert_eq!(Vec::<f32>::try_from(weight.flatten(0, 1)).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(Vec::<f32>::try_from(bias).unwrap(), [1.0, -2.0]);
}

#[test]
fn every_tensor_that_does_not_fit_is_listed_and_nothing_is_copied() {
    let (vars, weight, _) = model();
    let _ = vars.root().zeros_no_train("count", &[1]);
    let file = file(&[
        ("layer.weight", Dtype::F32, vec![4], floats(&[1.0, 2.0, 3.0, 4.0])),
        ("layer.biases", Dtype::F32, vec![2], floats(&[1.0, 2.0])),
        ("count", Dtype::I64, vec![1], vec![0; 8]),
    ]);
    let error = load_safetensors(&vars, file.path(), &LoadEnv::for_tests("cpu")).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "do not fit the model: count has type I64, the model needs Float, layer.bias is missing, layer.weight has \
             shape [4], the model needs [2, 2]; not used by the model: layer.biases"
        ),
        "{error}"
    );
    assert_eq!(weight.sum(Kind::Float).double_value(&[]), 0.0);
}

/// A model in two files with an index, as Hugging Face splits large ones.
fn in_two_files(weight_map: &serde_json::Value) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let weight = ("layer.weight", Dtype::F32, vec![2, 2], floats(&[1.0, 2.0, 3.0, 4.0]));
    write(&folder.path().join("model-00001-of-00002.safetensors"), &[weight]);
    let bias = ("layer.bias", Dtype::F32, vec![2], floats(&[5.0, 6.0]));
    write(&folder.path().join("model-00002-of-00002.safetensors"), &[bias]);
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": weight_map}).to_string()).unwrap();
    (folder, index)
}

#[test]
fn a_model_in_several_files_is_read_by_its_index() {
    let (vars, weight, bias) = model();
    let (_folder, index) = in_two_files(&serde_json::json!({
        "layer.weight": "model-00001-of-00002.safetensors", "layer.bias": "model-00002-of-00002.safetensors",
    }));
    load_safetensors(&vars, &index, &LoadEnv::for_tests("cpu")).unwrap();
    assert_eq!(Vec::<f32>::try_from(weight.flatten(0, 1)).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(Vec::<f32>::try_from(bias).unwrap(), [5.0, 6.0]);
}

#[test]
fn an_index_that_does_not_fit_its_files_is_an_error_and_names_only_files_beside_it() {
    for (file, reason) in [
        ("model-00001-of-00002.safetensors", "index.json are not a valid safetensors file: layer.bias is not in"),
        ("model-00003-of-00002.safetensors", "model-00003-of-00002.safetensors: No such file"),
        ("../model.safetensors", "\"../model.safetensors\" is not the name of a file beside it"),
        ("/etc/hostname", "\"/etc/hostname\" is not the name of a file beside it"),
    ] {
        let (_folder, index) = in_two_files(&serde_json::json!({"layer.bias": file}));
        let error = load_safetensors(&model().0, &index, &LoadEnv::for_tests("cpu")).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn every_tensor_gets_its_own_data_whichever_thread_reads_it_and_progress_counts_them_all() {
    let vars = VarStore::new(Device::Cpu);
    let names: Vec<String> = (0..40).map(|index| format!("w{index}")).collect();
    let tensors: Vec<Tensor> = names.iter().map(|name| vars.root().var(name, &[3], Init::Const(0.0))).collect();
    let data: Vec<Vec<u8>> = (0..40).map(|index| floats(&[index as f32; 3])).collect();
    let views = names.iter().zip(&data).map(|(name, data)| (name, TensorView::new(Dtype::F32, vec![3], data).unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    serialize_to_file(views, None, file.path()).unwrap();
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    let parts = names.iter().zip(&tensors).map(|(name, tensor)| {
        let stored = checkpoint.get(name).unwrap().clone();
        Part { name: name.clone(), variable: tensor.shallow_clone(), stored, kind: Kind::Float }
    });
    let seen = std::cell::RefCell::new(Vec::new());
    fill(parts.collect(), &checkpoint, |done, total| seen.borrow_mut().push((done, total))).unwrap();
    let seen = seen.into_inner();
    assert!(seen.is_sorted() && seen.len() == 40 && seen.last() == Some(&(480, 480)), "{seen:?}");
    for (index, tensor) in tensors.iter().enumerate() {
        assert_eq!(Vec::<f32>::try_from(tensor).unwrap(), [index as f32; 3]);
    }
}

#[test]
fn the_error_about_a_missing_file_names_it() {
    let error = load_safetensors(&model().0, "/nowhere/model.safetensors", &LoadEnv::for_tests("cpu")).unwrap_err();
    assert_eq!(error.to_string(), "weights /nowhere/model.safetensors: No such file or directory (os error 2)");
}

#[test]
fn a_truncated_or_inconsistent_file_is_rejected() {
    let whole = file(&[("layer.bias", Dtype::F32, vec![2], floats(&[1.0, 2.0]))]);
    let bytes = std::fs::read(whole.path()).unwrap();
    let inconsistent = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    for (bytes, reason) in [
        (&bytes[..bytes.len() - 1], "bytes long instead of"),
        (&bytes[..5], "it is only 5 bytes long"),
        (&inconsistent[..], "the header length is 18446744073709551615 bytes"),
        (b"\x02\0\0\0\0\0\0\0[]", "invalid"),
    ] {
        let truncated = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(truncated.path(), bytes).unwrap();
        let error = load_safetensors(&model().0, truncated.path(), &LoadEnv::for_tests("cpu")).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
