// probe COMMAND ...: what tests/test_cpp.py asks of the headers.
//
//   probe predict PREDICTOR ROWS BATCH THREADS   raw int64 rows from a file; raw float32 [3, rows] to standard output;
//                                                THREADS threads predict all rows on one predictor, and must agree
//   probe read PREDICTOR                         an architecture a line in; {"genome": ..., "json": ...} a line out
//   probe check PREDICTOR                        {"row": [...], "fingerprint": ...} a line in; "right" or the error out
//   probe open WHAT PREDICTOR...                 "right" or the error for each file; WHAT is verified: all, digest,
//                                                selftest, none
//   probe draw PREDICTOR COUNT SEED              rows drawn, mutated and crossed, a list a line
//   probe sha256                                 of standard input
#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "esm_predictor.hpp"
#include "esm_variation.hpp"

namespace {

std::string content_of(std::istream& stream) { return {std::istreambuf_iterator<char>(stream), {}}; }

std::vector<float> predict(const esm::Predictor& predictor, const std::vector<std::int64_t>& rows, std::size_t batch) {
    const std::size_t length = predictor.space().length(), count = rows.size() / length;
    std::vector<float> outputs(3 * count);
    for (std::size_t i = 0; i < count; i += batch) {
        float* value = &outputs[i];
        predictor.predict(&rows[i * length], std::min(batch, count - i), value, value + count, value + 2 * count);
    }
    return outputs;
}

void predict_command(const std::string& path, const std::string& file, std::size_t batch, std::size_t threads) {
    const esm::Predictor predictor(path);
    std::ifstream stream(file, std::ios::binary);
    const std::string content = content_of(stream);
    std::vector<std::int64_t> rows(content.size() / sizeof(std::int64_t));
    std::memcpy(rows.data(), content.data(), rows.size() * sizeof(std::int64_t));
    std::vector<std::vector<float>> outputs(threads);
    std::vector<std::thread> running;
    for (auto& mine : outputs) running.emplace_back([&] { mine = predict(predictor, rows, batch); });
    for (std::thread& thread : running) thread.join();
    const std::size_t bytes = outputs[0].size() * sizeof(float);
    for (const auto& mine : outputs) {
        if (std::memcmp(mine.data(), outputs[0].data(), bytes) != 0) throw esm::Error("two threads disagree");
    }
    std::cout.write(reinterpret_cast<const char*>(outputs[0].data()), static_cast<std::streamsize>(bytes));
}

// Prints what is made of each line of standard input, or the error.
void each_line(const std::function<esm::Json(const esm::Json&)>& made) {
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << made(esm::parse_json(line)) << '\n';
        } catch (const esm::Error& error) {
            std::cout << esm::Json{{"error", error.what()}} << '\n';
        }
    }
}

void read_command(const std::string& path) {
    const esm::Predictor predictor(path);
    const esm::Space& space = predictor.space();
    each_line([&](const esm::Json& given) {
        const esm::Genome genome = given.contains("arrays")  // the typed way to the same
                                       ? space.ofa(given["ks"], given["e"], given["d"], given["r"].get<int>())
                                       : space.genome(given);
        return esm::Json{{"genome", genome.row}, {"json", space.to_json(genome)}};
    });
}

void check_command(const std::string& path) {
    const esm::Predictor predictor(path);
    each_line([&](const esm::Json& given) {
        const auto row = given.value("row", std::vector<std::int64_t>{});
        predictor.space().check(esm::Genome{given.value("fingerprint", predictor.space().fingerprint), row});
        return esm::Json("right");
    });
}

void open_command(const std::string& asked, const std::vector<std::string>& paths) {
    esm::Options options;
    options.digest = asked == "all" || asked == "digest";
    options.self_test = asked == "all" || asked == "selftest";
    for (const std::string& path : paths) {
        try {
            const esm::Predictor predictor(path, options);
            std::cout << "right\n";
        } catch (const esm::Error& error) {
            std::cout << error.what() << '\n';
        }
    }
}

void draw_command(const std::string& path, std::size_t count, std::uint64_t seed) {
    const esm::Predictor predictor(path);
    esm::Variation variation(predictor.space(), seed);
    std::vector<std::int64_t> last(predictor.space().length()), row(last), child(last);
    variation.draw(last.data());
    for (std::size_t i = 0; i < count; ++i) {
        variation.draw(row.data());
        variation.cross(last.data(), row.data(), child.data());
        variation.mutate(child.data(), 0.2);
        for (const auto& each : {row, child}) std::cout << esm::Json(each) << '\n';
        last = row;
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<std::string> words(arguments + 1, arguments + count);
    const std::string command = words.empty() ? "" : words[0];
    try {
        const auto number = [&words](std::size_t i) { return std::stoul(words.at(i)); };
        if (command == "predict") predict_command(words.at(1), words.at(2), number(3), number(4));
        else if (command == "read") read_command(words.at(1));
        else if (command == "check") check_command(words.at(1));
        else if (command == "open") open_command(words.at(1), {words.begin() + 2, words.end()});
        else if (command == "draw") draw_command(words.at(1), number(2), number(3));
        else if (command == "sha256") std::cout << esm::sha256(content_of(std::cin)) << '\n';
        else throw esm::Error("unknown command " + command);
    } catch (const std::exception& error) {
        std::cerr << "probe: " << error.what() << '\n';
        return 2;
    }
}
