// bench PREDICTOR.onnx [--layers LAYERS.onnx] [--seconds 1] [--batches 64,1024,16384]: how fast one thread predicts.
//
// One genome: median and 99th percentile of a call, in microseconds; batches: predictions per second at the median, and
// per second of the processor's time, which says the same on a machine that others use too. LAYERS.onnx is the floor
// beside it: the surrogate's matrix products alone, float [batch, width] in, [batch, 1] out. Prints one JSON object.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "esm_predictor.hpp"
#include "esm_variation.hpp"

namespace {

struct Asked {
    std::string predictor, layers;
    double seconds = 1;
    std::vector<std::size_t> batches = {64, 1024, 16384};
};

Asked read(int count, char** arguments) {
    Asked asked;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        const bool option = name.rfind("--", 0) == 0;
        if (option && i + 1 == count) throw esm::Error(name + " without a value");
        if (!option) asked.predictor = name;
        else if (name == "--layers") asked.layers = arguments[++i];
        else if (name == "--seconds") asked.seconds = std::atof(arguments[++i]);
        else if (name == "--batches") {
            asked.batches.clear();
            std::istringstream texts(arguments[++i]);
            for (std::string text; std::getline(texts, text, ',');) {
                asked.batches.push_back(static_cast<std::size_t>(std::max(1, std::atoi(text.c_str()))));
            }
        } else throw esm::Error("unknown option " + name);
    }
    if (asked.predictor.empty()) throw esm::Error("expected bench PREDICTOR.onnx");
    return asked;
}

struct Times {
    std::vector<double> us;  // of each call, sorted
    double cpu_us;           // the processor's time for a call, on average

    double at(double share) const { return us[static_cast<std::size_t>(share * static_cast<double>(us.size() - 1))]; }
    esm::Json call() const { return {{"median", at(0.5)}, {"p99", at(0.99)}}; }
    esm::Json rates(std::size_t rows) const {
        const double million_rows = 1e6 * static_cast<double>(rows);
        return {{"per_second", million_rows / at(0.5)}, {"per_cpu_second", million_rows / cpu_us}};
    }
};

// `call` is given the number of the call.
template <typename Call>
Times timed(double seconds, const Call& call) {
    using Clock = std::chrono::steady_clock;
    constexpr std::size_t least = 20;
    for (std::size_t i = 0; i < least; ++i) call(i);
    std::vector<double> us;
    const std::clock_t cpu = std::clock();
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    for (auto start = Clock::now(); start < end || us.size() < least;) {
        call(us.size());
        const auto stop = Clock::now();
        us.push_back(std::chrono::duration<double, std::micro>(stop - start).count());
        start = stop;
    }
    const double cpu_us = 1e6 * static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
    std::sort(us.begin(), us.end());
    return {us, cpu_us / static_cast<double>(us.size())};
}

esm::Json bench_predictor(const Asked& asked) {
    const esm::Predictor predictor(asked.predictor);
    const std::size_t length = predictor.space().length();
    const std::size_t most = std::max<std::size_t>(1024, *std::max_element(asked.batches.begin(), asked.batches.end()));
    std::vector<std::int64_t> rows(most * length);
    std::vector<float> value(most), lower(most), upper(most);
    esm::Variation variation(predictor.space(), 0);
    for (std::size_t i = 0; i < most; ++i) variation.draw(&rows[i * length]);

    const Times one = timed(asked.seconds, [&](std::size_t i) {
        predictor.predict(&rows[i % most * length], 1, value.data(), lower.data(), upper.data());
    });
    esm::Batch same = predictor.bind(rows.data(), 1, value.data(), lower.data(), upper.data());
    const Times bound = timed(asked.seconds, [&](std::size_t) { same.run(); });
    esm::Json batches = esm::Json::object();
    for (const std::size_t count : asked.batches) {
        esm::Batch batch = predictor.bind(rows.data(), count, value.data(), lower.data(), upper.data());
        batches[std::to_string(count)] = timed(asked.seconds, [&](std::size_t) { batch.run(); }).rates(count);
    }
    return {{"one_us", one.call()}, {"one_bound_us", bound.call()}, {"batches", batches}};
}

esm::Json bench_layers(const Asked& asked) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "bench");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(1);
    Ort::Session session(env, std::filesystem::path(asked.layers).c_str(), settings);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto input_name = session.GetInputNameAllocated(0, allocator);
    const auto output_name = session.GetOutputNameAllocated(0, allocator);
    const char *input = input_name.get(), *output = output_name.get();
    const Ort::TypeInfo type = session.GetInputTypeInfo(0);
    const std::int64_t width = type.GetTensorTypeAndShapeInfo().GetShape().back();
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    esm::Json batches = esm::Json::object();
    for (const std::size_t count : asked.batches) {
        std::vector<float> numbers(count * static_cast<std::size_t>(width)), result(count);
        for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 17) / 17;
        const std::int64_t shape[] = {static_cast<std::int64_t>(count), width}, shape_out[] = {shape[0], 1};
        const auto given = Ort::Value::CreateTensor<float>(memory, numbers.data(), numbers.size(), shape, 2);
        auto taken = Ort::Value::CreateTensor<float>(memory, result.data(), count, shape_out, 2);
        const auto call = [&](std::size_t) {
            session.Run(Ort::RunOptions{nullptr}, &input, &given, 1, &output, &taken, 1);
        };
        batches[std::to_string(count)] = timed(asked.seconds, call).rates(count);
    }
    return batches;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        const Asked asked = read(count, arguments);
        esm::Json result = bench_predictor(asked);
        if (!asked.layers.empty()) result["layers"] = bench_layers(asked);
        std::cout << result.dump(2) << '\n';
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench: %s\n", error.what());
        return 2;
    }
}
