// search PREDICTOR.onnx --budget 10: an evolutionary search for the best architectures within a budget.
//
// Over any space that the file describes. Each generation is predicted in one call. What is sought is the greatest
// output of a second ONNX file (--objective: input genome, int64 [batch, length]; its first output, float [batch], is
// taken), or without one the greatest capacity: the sum over all blocks of the block's options (and the network's),
// each as a share of the feature's greatest one; an option that is no number counts nothing. So more blocks, greater
// kernels, expansions and resolutions count more. It stands in for accuracy, and knows nothing of it.
//
// Prints the best different architectures to standard output, the best first, as JSON Lines that `esm-onnx profile
// --architectures` reads; what was predicted for them to standard error. Exits with 1 where none meets the budget.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "esm_predictor.hpp"
#include "esm_variation.hpp"

namespace {

constexpr const char* usage =
    "search PREDICTOR.onnx --budget X [--bound value|lower|upper] [--objective ACCURACY.onnx]\n"
    "       [--population 100] [--generations 500] [--mutation 0.05] [--seed 0] [--top 10]\n";

struct Asked {
    std::string predictor, objective, bound = "value";
    double budget = -1, mutation = 0.05;
    std::size_t population = 100, generations = 500, seed = 0, top = 10;
};

double number(const std::string& name, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0)) throw esm::Error(name + " is " + text + ", expected a number");
    return value;
}

std::size_t whole(const std::string& name, const std::string& text, double least) {
    const double value = number(name, text);
    if (value != static_cast<double>(static_cast<std::uint32_t>(std::min(value, 4e9))) || value < least) {
        throw esm::Error(name + " is " + text + ", expected a whole number from " + std::to_string(int(least)));
    }
    return static_cast<std::size_t>(value);
}

Asked read(int count, char** arguments) {
    Asked asked;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name.rfind("--", 0) != 0) {
            asked.predictor = name;
            continue;
        }
        if (i + 1 == count) throw esm::Error(name + " without a value\n" + usage);
        const std::string text = arguments[++i];
        if (name == "--budget") asked.budget = number(name, text);
        else if (name == "--bound") asked.bound = text;
        else if (name == "--objective") asked.objective = text;
        else if (name == "--population") asked.population = whole(name, text, 2);
        else if (name == "--generations") asked.generations = whole(name, text, 1);
        else if (name == "--mutation") asked.mutation = number(name, text);
        else if (name == "--seed") asked.seed = whole(name, text, 0);
        else if (name == "--top") asked.top = whole(name, text, 1);
        else throw esm::Error("unknown option " + name + "\n" + usage);
    }
    if (asked.predictor.empty() || asked.budget < 0)
        throw esm::Error("expected a predictor and a budget\n" + std::string(usage));
    if (asked.bound != "value" && asked.bound != "lower" && asked.bound != "upper") {
        throw esm::Error("--bound is " + asked.bound + ", expected value, lower or upper");
    }
    return asked;
}

// Gives each of `count` rows, which stay where they are, a number that is to be great.
class Objective {
  public:
    virtual ~Objective() = default;
    virtual void run() = 0;
};

class Capacity : public Objective {
  public:
    Capacity(const esm::Space& space, const std::int64_t* rows, std::size_t count, float* values)
        : space_(space), rows_(rows), count_(count), values_(values) {
        for (const auto* part : {&space.network, &space.features}) {
            for (const esm::Feature& feature : *part) {
                std::vector<double> shares;
                double greatest = 0;
                for (const esm::Option& option : feature.options) greatest = std::max(greatest, option.number);
                for (const esm::Option& option : feature.options) {
                    shares.push_back(option.number > 0 ? option.number / greatest : 0);
                }
                shares_.push_back(std::move(shares));
            }
        }
    }

    void run() override {
        for (std::size_t i = 0; i < count_; ++i) values_[i] = static_cast<float>(of(rows_ + i * space_.length()));
    }

  private:
    const esm::Space& space_;
    const std::int64_t* rows_;
    std::size_t count_;
    float* values_;
    std::vector<std::vector<double>> shares_;  // by feature of the network, then of a block; by option

    double of(const std::int64_t* row) const {
        const std::size_t fixed = space_.network.size();
        double network = 0, sum = 0;
        for (std::size_t f = 0; f < fixed; ++f) network += shares_[f][static_cast<std::size_t>(row[f])];
        for (std::size_t u = 0; u < space_.units(); ++u) {
            for (int j = 0; j < space_.depth(row, u); ++j) {
                sum += network;
                const std::int64_t* slot = row + space_.place(u, static_cast<std::size_t>(j));
                for (std::size_t f = 0; f < space_.features.size(); ++f) {
                    sum += shares_[fixed + f][static_cast<std::size_t>(slot[f])];
                }
            }
        }
        return sum;
    }
};

class Network : public Objective {
  public:
    Network(const std::string& path, const esm::Space& space, std::int64_t* rows, std::size_t count, float* values)
        : path_(path) {
        try {
            Ort::SessionOptions settings;
            settings.SetIntraOpNumThreads(1);
            session_ = Ort::Session(env_, std::filesystem::path(path).c_str(), settings);
            Ort::AllocatorWithDefaultOptions allocator;
            input_name_ = session_.GetInputNameAllocated(0, allocator).get();
            output_name_ = session_.GetOutputNameAllocated(0, allocator).get();
            const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
            const std::int64_t shape[] = {static_cast<std::int64_t>(count), static_cast<std::int64_t>(space.length())};
            input_ = Ort::Value::CreateTensor<std::int64_t>(memory, rows, count * space.length(), shape, 2);
            // As the network has it: [batch] or [batch, 1].
            const Ort::TypeInfo type = session_.GetOutputTypeInfo(0);
            const std::int64_t column[] = {shape[0], 1};
            const std::size_t rank = type.GetTensorTypeAndShapeInfo().GetDimensionsCount();
            output_ = Ort::Value::CreateTensor<float>(memory, values, count, column, rank == 2 ? 2 : 1);
        } catch (const Ort::Exception& error) {
            throw esm::Error(path_ + ": " + error.what());
        }
    }

    void run() override {
        const char *input = input_name_.c_str(), *output = output_name_.c_str();
        try {
            session_.Run(Ort::RunOptions{nullptr}, &input, &input_, 1, &output, &output_, 1);
        } catch (const Ort::Exception& error) {
            throw esm::Error(path_ +
                             ": expected an input int64 [batch, length] and an output float [batch]: " + error.what());
        }
    }

  private:
    std::string path_, input_name_, output_name_;
    Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "search"};
    Ort::Session session_{nullptr};
    Ort::Value input_{nullptr}, output_{nullptr};
};

// The survivors of all generations so far and their children, in arrays of one place for each: the survivors in the
// first half, the children in the second, so that each generation is predicted from and into the same memory.
class Search {
  public:
    Search(const Asked& asked, const esm::Predictor& predictor)
        : asked_(asked),
          space_(predictor.space()),
          length_(space_.length()),
          rows_(2 * asked.population * length_),
          objective_(2 * asked.population),
          variation_(space_, asked.seed),
          batch_(bound(predictor)) {
        std::int64_t* children = row(asked.population);
        float* values = &objective_[asked.population];
        if (asked.objective.empty()) {
            sought_ = std::make_unique<Capacity>(space_, children, asked.population, values);
        } else {
            sought_ = std::make_unique<Network>(asked.objective, space_, children, asked.population, values);
        }
    }

    void run() {
        const std::size_t half = asked_.population;
        for (std::size_t i = 0; i < half; ++i) variation_.draw(row(half + i));
        survive();
        for (std::size_t generation = 1; generation < asked_.generations; ++generation) {
            for (std::size_t i = 0; i < half; ++i) {
                std::int64_t* child = row(half + i);
                variation_.cross(row(parent()), row(parent()), child);
                variation_.mutate(child, asked_.mutation);
            }
            survive();
        }
    }

    // How many of the survivors, which are sorted, are within the budget.
    std::size_t found() const {
        std::size_t count = 0;
        while (count < survivors_ && fits(count)) ++count;
        return count;
    }

    esm::Genome genome(std::size_t i) const {
        return {space_.fingerprint, {&rows_[i * length_], &rows_[i * length_] + length_}};
    }
    float objective(std::size_t i) const { return objective_[i]; }
    float limited(std::size_t i) const { return limited_[i]; }

  private:
    const Asked& asked_;
    const esm::Space& space_;
    std::size_t length_, survivors_ = 0;
    std::vector<std::int64_t> rows_, kept_rows_;
    std::vector<float> objective_, limited_, kept_;  // `limited_` is what the budget limits
    std::vector<std::size_t> order_;
    esm::Variation variation_;
    esm::Batch batch_;
    std::unique_ptr<Objective> sought_;

    std::int64_t* row(std::size_t i) { return &rows_[i * length_]; }

    esm::Batch bound(const esm::Predictor& predictor) {
        limited_.resize(2 * asked_.population);
        float* values = &limited_[asked_.population];
        const auto where = [&](const char* name) { return asked_.bound == name ? values : nullptr; };
        return predictor.bind(row(asked_.population), asked_.population, where("value"), where("lower"),
                              where("upper"));
    }

    bool fits(std::size_t i) const { return limited_[i] <= asked_.budget; }

    // The better of two survivors drawn, as they are sorted.
    std::size_t parent() { return std::min(variation_.below(survivors_), variation_.below(survivors_)); }

    // Within the budget before beyond it; there by what is sought, here by what is missing. The rest makes the order
    // the same on each machine, and puts equal rows side by side.
    bool better(std::size_t a, std::size_t b) const {
        if (fits(a) != fits(b)) return fits(a);
        if (fits(a) && objective_[a] != objective_[b]) return objective_[a] > objective_[b];
        if (limited_[a] != limited_[b]) return limited_[a] < limited_[b];
        const std::int64_t *first = &rows_[a * length_], *second = &rows_[b * length_];
        return std::lexicographical_compare(first, first + length_, second, second + length_);
    }

    bool same(std::size_t a, std::size_t b) const {
        return std::equal(&rows_[a * length_], &rows_[a * length_] + length_, &rows_[b * length_]);
    }

    void survive() {
        batch_.run();
        sought_->run();
        order_.clear();
        for (std::size_t i = 0; i < survivors_; ++i) order_.push_back(i);
        for (std::size_t i = asked_.population; i < 2 * asked_.population; ++i) {
            // NaN would break the order: what the objective cannot judge is not taken.
            if (limited_[i] == limited_[i] && objective_[i] == objective_[i]) order_.push_back(i);
        }
        std::sort(order_.begin(), order_.end(), [this](std::size_t a, std::size_t b) { return better(a, b); });
        const auto end = std::unique(order_.begin(), order_.end(), [this](auto a, auto b) { return same(a, b); });
        order_.resize(std::min(asked_.population, static_cast<std::size_t>(end - order_.begin())));
        if (order_.empty()) throw esm::Error("the objective is no number for any architecture drawn");
        keep();
    }

    void keep() {
        kept_rows_.clear();
        kept_.clear();
        for (const std::size_t i : order_) {
            kept_rows_.insert(kept_rows_.end(), row(i), row(i) + length_);
            kept_.push_back(objective_[i]);
            kept_.push_back(limited_[i]);
        }
        survivors_ = order_.size();
        std::copy(kept_rows_.begin(), kept_rows_.end(), rows_.begin());
        for (std::size_t i = 0; i < survivors_; ++i) objective_[i] = kept_[2 * i], limited_[i] = kept_[2 * i + 1];
    }
};

int run(const Asked& asked) {
    const esm::Predictor predictor(asked.predictor);
    Search search(asked, predictor);
    const auto start = std::chrono::steady_clock::now();
    search.run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "%zu generations of %zu in %.3f s\n", asked.generations, asked.population, seconds.count());
    const auto& names = predictor.outputs();
    const std::string& limited = names[asked.bound == "value" ? 0 : asked.bound == "lower" ? 1 : 2];
    if (search.found() == 0) {
        std::fprintf(stderr, "none within the budget: the least %s found is %g, expected at most %g\n", limited.c_str(),
                     search.limited(0), asked.budget);
        return 1;
    }
    for (std::size_t i = 0; i < std::min(asked.top, search.found()); ++i) {
        const esm::Genome genome = search.genome(i);
        const auto [value, lower, upper] = predictor.predict(genome);
        std::cout << predictor.space().to_json(genome) << '\n';
        std::fprintf(stderr, "%3zu  objective %g   %s %g   %s %g   %s %g\n", i + 1, search.objective(i),
                     names[0].c_str(), value, names[1].c_str(), lower, names[2].c_str(), upper);
    }
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return run(read(count, arguments));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "search: %s\n", error.what());
        return 2;
    }
}
