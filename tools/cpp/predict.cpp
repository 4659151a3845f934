// predict PREDICTOR.onnx < architectures.jsonl: what each architecture is predicted to take, with the bounds.
//
// A line of the input is an architecture as `esm-onnx sample` writes it, or Once-for-All's arrays where they fit.
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "esm_predictor.hpp"

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "expected one argument: predict PREDICTOR.onnx < architectures.jsonl\n");
        return 2;
    }
    std::string line;
    int number = 0;
    try {
        const esm::Predictor predictor(arguments[1]);
        const auto& names = predictor.outputs();
        while (std::getline(std::cin, line)) {
            ++number;
            if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
            const auto [value, lower, upper] = predictor.predict(predictor.space().genome(esm::parse_json(line)));
            const esm::Json prediction = {{names[0], value}, {names[1], lower}, {names[2], upper}};
            std::cout << prediction << '\n';  // an infinite bound is null
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s%s\n", number ? ("line " + std::to_string(number) + ": ").c_str() : "", error.what());
        return 2;
    }
}
