// predictor.onnx from C++17: ONNX Runtime's C++ API and nlohmann/json, nothing else. Everything is in the headers here.
//
//     const esm::Predictor predictor("predictor.onnx");
//     const esm::Genome genome = predictor.space().genome(esm::parse_json(R"({"space": "resnet", "units": [...]})"));
//     const auto [value, lower, upper] = predictor.predict(genome);  // in the unit of predictor.quantity()
//
// What goes wrong is an esm::Error, whose message names the file, the field, its value and what was expected.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "esm_digest.hpp"
#include "esm_option.hpp"
#include "esm_space.hpp"

namespace esm {

struct Options {
    int threads = 1;        // of one call; calls from several threads run beside each other anyway
    bool spinning = false;  // whether idle threads of a call wait busily
    GraphOptimizationLevel optimisation = ORT_ENABLE_ALL;
    std::string quantity;   // what must be predicted, like "energy_mj"; any, where it is empty
    bool digest = true;     // check that no bit of the file changed
    bool self_test = true;  // check that ONNX Runtime predicts here what the file says of its test genomes
};

// The quantity and the bounds of its interval; NaN in all three where the row is no genome of the space.
struct Prediction {
    float value, lower, upper;
};

class Predictor;

// Rows that are predicted in one run. More are predicted slice by slice: what is computed in between stays in the
// processor's cache, and memory does not grow with their number.
constexpr std::size_t slice_rows = 1024;

// A call that is prepared once and run again and again on the same buffers: nothing is allocated on this side. One of
// them belongs to one thread at a time; predictor and buffers must outlive it.
class Batch {
  public:
    void run();

  private:
    friend class Predictor;
    Batch(const Predictor& predictor, const std::int64_t* genomes, std::size_t count, std::array<float*, 3> outputs);

    struct Slice {
        Ort::Value input{nullptr};
        std::array<Ort::Value, 3> outputs{Ort::Value{nullptr}, Ort::Value{nullptr}, Ort::Value{nullptr}};
    };

    const Predictor* predictor_;
    std::vector<Slice> slices_;
    std::array<const char*, 3> names_{};
    std::size_t wanted_ = 0;  // outputs
};

// A predictor read from its file. All that is const may be called from several threads at once, on one predictor.
class Predictor {
  public:
    explicit Predictor(const std::string& path, const Options& options = {}) : path_(path), session_(nullptr) {
        try {
            open(options);
        } catch (const Ort::Exception& error) {
            throw Error(path + ": not an ONNX file that ONNX Runtime can run: " + error.what());
        } catch (const Json::exception& error) {
            throw Error(path + ": its metadata is damaged: " + error.what());
        } catch (const Error& error) {
            throw Error(path + ": " + error.what());
        }
    }
    Predictor(const Predictor&) = delete;  // nor moved: a Batch points to it
    Predictor& operator=(const Predictor&) = delete;

    const Space& space() const { return *space_; }

    // What the file says of itself: target, encoding, surrogate, accuracy, coverage, ...
    const Json& metadata() const { return metadata_; }

    // What it predicts, with its unit: latency_ms, energy_mj, ...
    const std::string& quantity() const { return outputs_[0]; }

    // Names of the three outputs: latency_ms, lower_ms, upper_ms.
    const std::array<std::string, 3>& outputs() const { return outputs_; }

    // Predicts `count` rows of space().length() integers, one after the other, into buffers of `count` floats. Where
    // one of them is null, it is not wanted. The headers of the tensors are made for each call: in a loop over
    // the same buffers, `bind` once and `run` often.
    void predict(const std::int64_t* genomes, std::size_t count, float* value, float* lower = nullptr,
                 float* upper = nullptr) const {
        bind(genomes, count, value, lower, upper).run();
    }

    // One genome, checked first: where it is wrong, the error names the field.
    Prediction predict(const Genome& genome) const {
        space_->check(genome);
        Prediction prediction{};
        predict(genome.row.data(), 1, &prediction.value, &prediction.lower, &prediction.upper);
        return prediction;
    }

    // The call of `predict`, to be run again and again.
    Batch bind(const std::int64_t* genomes, std::size_t count, float* value, float* lower = nullptr,
               float* upper = nullptr) const {
        return Batch(*this, genomes, count, {value, lower, upper});
    }

  private:
    friend class Batch;

    std::string path_;
    Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "esm"};
    mutable Ort::Session session_;  // its Run is not const, though it may be called from several threads at once
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    Json metadata_;
    std::optional<Space> space_;
    std::array<std::string, 3> outputs_;

    void open(const Options& options) {
        std::ifstream file(path_, std::ios::binary);
        std::ostringstream read;
        if (!file.is_open() || !(read << file.rdbuf())) {  // nor does it read an empty one
            throw Error("no file that can be read, or an empty one, expected a predictor.onnx");
        }
        const std::string content = read.str();
        if (options.digest) check_digest(content);
        session_ = session_of(env_, content, options);
        read_metadata(options);
        check_graph();
        if (options.self_test) self_test();
    }

    static Ort::Session session_of(const Ort::Env& env, const std::string& content, const Options& options) {
        Ort::SessionOptions settings;
        settings.SetIntraOpNumThreads(options.threads).SetInterOpNumThreads(1);
        settings.SetGraphOptimizationLevel(options.optimisation);
        settings.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
        settings.AddConfigEntry("session.intra_op.allow_spinning", options.spinning ? "1" : "0");
        return Ort::Session(env, content.data(), content.size(), settings);
    }

    void read_metadata(const Options& options) {
        Ort::AllocatorWithDefaultOptions allocator;
        const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("esm_onnx", allocator);
        if (!text) throw Error("no metadata esm_onnx, expected a predictor of esm-onnx");
        metadata_ = parse_json(text.get());
        const Json& schema = metadata_.at("schema");
        const bool unverified = !options.digest && !options.self_test;  // schema 1 had neither
        if (schema != 2 && !(schema == 1 && unverified)) {
            throw Error("schema is " + detail::shown(schema) + ", expected 2: train it anew");
        }
        space_.emplace(metadata_);
        outputs_[0] = metadata_.at("quantity").get<std::string>();
        const std::string unit = outputs_[0].substr(outputs_[0].rfind('_') + 1);
        outputs_[1] = "lower_" + unit;
        outputs_[2] = "upper_" + unit;
        if (!options.quantity.empty() && options.quantity != quantity()) {
            throw Error("quantity is " + quantity() + ", expected " + options.quantity);
        }
    }

    void check_graph() const {
        Ort::AllocatorWithDefaultOptions allocator;
        const std::string name = session_.GetInputNameAllocated(0, allocator).get();
        if (session_.GetInputCount() != 1 || name != "genome") {
            throw Error("the first input of its graph is " + name + ", expected one: genome");
        }
        const Ort::TypeInfo type = session_.GetInputTypeInfo(0);
        const auto input = type.GetTensorTypeAndShapeInfo();
        const std::vector<std::int64_t> shape = input.GetShape();
        if (input.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 || shape.size() != 2 ||
            shape[1] != static_cast<std::int64_t>(space_->length())) {
            throw Error("genome is " + detail::shown(shape) + " in the graph, expected int64 [batch, " +
                        std::to_string(space_->length()) + "]");
        }
        std::vector<std::string> names;
        for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
            names.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
        }
        for (const std::string& output : outputs_) {
            if (std::find(names.begin(), names.end(), output) == names.end()) {
                throw Error("outputs are " + detail::joined(names) + ", expected " + output + " among them");
            }
        }
    }

    void self_test() const {
        const Json& test = metadata_.at("selftest");
        const auto tolerance = test.at("tolerance").get<double>();
        const auto valid = test.at("valid").get<std::vector<bool>>();
        std::vector<std::int64_t> rows;
        for (const Json& row : test.at("genomes")) {
            if (row.size() != space_->length()) throw Error("selftest has a genome of another length");
            for (const Json& value : row) rows.push_back(value.get<std::int64_t>());
        }
        if (valid.empty() || rows.size() != valid.size() * space_->length()) {
            throw Error("selftest has " + std::to_string(valid.size()) + " values of valid, expected one a genome");
        }
        std::array<std::vector<float>, 3> found;
        for (auto& values : found) values.resize(valid.size());
        predict(rows.data(), valid.size(), found[0].data(), found[1].data(), found[2].data());
        for (std::size_t o = 0; o < outputs_.size(); ++o) {
            const Json& expected = test.at("outputs").at(outputs_[o]);
            for (std::size_t i = 0; i < valid.size(); ++i) {
                if (!agrees(found[o][i], expected.at(i), valid[i], tolerance)) {
                    throw Error("selftest, genome " + std::to_string(i + 1) + ": " + outputs_[o] + " is " +
                                std::to_string(found[o][i]) + ", expected " + detail::shown(expected.at(i)) +
                                ": damaged, or ONNX Runtime " + Ort::GetVersionString() + " computes it wrongly");
                }
            }
        }
    }

    static bool agrees(float found, const Json& expected, bool valid, double tolerance) {
        if (!valid) return std::isnan(found);
        if (expected.is_null()) return found == std::numeric_limits<float>::infinity();
        const auto value = expected.get<double>();
        return std::abs(found - value) <= tolerance * std::abs(value);
    }
};

inline Batch::Batch(const Predictor& predictor, const std::int64_t* genomes, std::size_t count,
                    std::array<float*, 3> outputs)
    : predictor_(&predictor), slices_((count + slice_rows - 1) / slice_rows) {
    const std::size_t length = predictor.space().length();
    for (std::size_t o = 0; o < outputs.size(); ++o) {
        if (outputs[o] == nullptr) continue;
        names_[wanted_] = predictor.outputs_[o].c_str();
        outputs[wanted_++] = outputs[o];
    }
    for (std::size_t s = 0; s < slices_.size(); ++s) {
        const std::size_t first = s * slice_rows, rows = std::min(slice_rows, count - first);
        const std::int64_t shape[] = {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(length)};
        // ONNX Runtime takes no pointer to const, and does not write to an input.
        auto* given = const_cast<std::int64_t*>(genomes + first * length);
        slices_[s].input = Ort::Value::CreateTensor<std::int64_t>(predictor.memory_, given, rows * length, shape, 2);
        for (std::size_t o = 0; o < wanted_; ++o) {
            slices_[s].outputs[o] =
                Ort::Value::CreateTensor<float>(predictor.memory_, outputs[o] + first, rows, shape, 1);
        }
    }
}

inline void Batch::run() {
    static constexpr const char* input = "genome";
    try {
        for (Slice& slice : slices_) {
            predictor_->session_.Run(Ort::RunOptions{nullptr}, &input, &slice.input, 1, names_.data(),
                                     slice.outputs.data(), wanted_);
        }
    } catch (const Ort::Exception& error) {
        throw Error(predictor_->path_ + ": ONNX Runtime failed to run it: " + error.what());
    }
}

}  // namespace esm
