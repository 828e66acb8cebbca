// The quantized checkpoint, in ModelOpt's unified Hugging Face layout.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "io/checkpoint.h"
#include "quant/calibrate.h"

namespace kv8::quant {

/// The smallest scale written: FP16's smallest step, 2^-24. K and V are multiples of it, so a finer
/// scale could represent nothing more, and a head that calibration saw only zeros of keeps a
/// positive one.
inline constexpr float kMinScale = 0x1p-24f;

/// max(amax / 448, kMinScale), in FP32.
float scale_from_amax(float amax);

/// Dequant scales of one layer: K and V one value, or one per head; Q one.
io::LayerKvScales layer_scales(const LayerAmax& amax, bool per_head);

/// Fills `dir`, an empty folder: all tensors of `source` in FP16 (those that are BF16 or F32 are
/// converted; a value that FP16 cannot hold is an error naming the tensor), configuration,
/// tokenizer files, and, with `calibration`, scales and kv_calibration.json.
Status write_checkpoint(const io::Checkpoint& source, const std::filesystem::path& dir,
                        const std::optional<CalibrationResult>& calibration, bool per_head);

}  // namespace kv8::quant
