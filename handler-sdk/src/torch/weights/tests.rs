use safetensors::serialize_to_file;
use safetensors::tensor::TensorView;
use tch::Device;
use tch::nn::Init;

use super::*;

type Entry = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn file(tensors: &[Entry]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, file.path()).unwrap();
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
