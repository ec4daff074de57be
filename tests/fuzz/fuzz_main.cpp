// Runs a fuzz target without libFuzzer, which GCC does not have.
//
//     target [-runs=N] [-seed=S] [-seconds=T] [-max_len=BYTES] [-timeout=SECONDS] [-artifact_prefix=PATH] [corpus...]
//
// A target defines LLVMFuzzerTestOneInput and, if it wants, fuzz_seed(index, data, bytes_max): writes the input that
// runs start from with this index (from 0) and returns its length, or 0 after the last. Corpus arguments are files, or
// directories whose files are taken in the order of their names.
//
//   seeds + corpus --replayed once each--> then N times: pick one, mutate it 1 to 8 times, run it
//
// The n-th mutated input depends on the seed, n and the corpus alone, so a run repeats. There is no coverage feedback:
// this driver finds what structure-aware seeds put within reach of a few mutations. Default: 10,000 runs.
//
// When an input fails. Each input is copied into a shared mapping of a file before it runs, so it survives whatever
// happens to the process, even SIGKILL. F1 a signal, F2 a sanitizer's report, F3 an input that takes longer than the
// timeout: the input is written to crash-<hash> (hang-<hash>) and its name printed. Such a file is a corpus argument
// for the next run.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Both may be absent: the first belongs to the target, the second to the sanitizers.
extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) __attribute__((weak));
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));
// Asked by the undefined-behaviour sanitizer, which beside the address sanitizer ignores the callback: its reports are
// to end in SIGABRT, which is handled below.
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using Input = std::vector<std::uint8_t>;

struct Settings {
    std::uint64_t runs = 10'000;
    std::uint64_t seed = 1;
    std::uint64_t seconds = 0;  // 0: as many runs as asked for, however long
    std::uint64_t length_max = 1 << 20;
    std::uint64_t timeout_s = 20;
    std::string artifact_prefix;
    std::vector<std::filesystem::path> corpus;
};

// --- The input under test, and what becomes of it when the target fails ----------------------------------------------

// Lies in a shared mapping of the file at `slot_path`: length first, then the bytes.
struct Slot {
    std::uint64_t length;
    std::uint8_t bytes[];
};

Slot* slot = nullptr;
char slot_path[256];
char artifact_start[256];

void print(const char* words) {
    // A report that cannot be printed has nowhere else to go.
    if (write(STDERR_FILENO, words, std::strlen(words)) < 0) return;
}

// Called in signal handlers: neither allocates nor locks.
void save_input(const char* kind) {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (std::uint64_t i = 0; i < slot->length; ++i) hash = (hash ^ slot->bytes[i]) * 0x100000001b3;
    char path[512];
    std::snprintf(path, sizeof path, "%s%s-%016llx", artifact_start, kind, static_cast<unsigned long long>(hash));
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool saved = fd >= 0;
    for (std::uint64_t at = 0; saved && at < slot->length;) {
        const ssize_t done = write(fd, slot->bytes + at, slot->length - at);
        saved = done > 0;
        if (saved) at += static_cast<std::uint64_t>(done);
    }
    print(saved ? "fuzz: the input is in " : "fuzz: the input could not be written to ");
    print(path);
    print("\n");
    unlink(slot_path);
}

void on_fatal_signal(int number) {
    save_input("crash");
    signal(number, SIG_DFL);
    raise(number);
}

void on_timeout(int) {
    print("fuzz: the input takes too long\n");
    save_input("hang");
    _exit(70);
}

void on_sanitizer_report() { save_input("crash"); }

void install_handlers() {
    struct sigaction action {};
    action.sa_handler = on_fatal_signal;
    action.sa_flags = SA_ONSTACK;
    static std::uint8_t stack[64 << 10];  // the target may have overflowed its own
    const stack_t alternative{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
    sigaltstack(&alternative, nullptr);
    // A sanitizer explains these two better, and calls back.
    const bool sanitized = __sanitizer_set_death_callback != nullptr;
    if (sanitized) __sanitizer_set_death_callback(on_sanitizer_report);
    for (const int number : {SIGABRT, SIGILL, SIGFPE}) sigaction(number, &action, nullptr);
    if (!sanitized)
        for (const int number : {SIGSEGV, SIGBUS}) sigaction(number, &action, nullptr);
    action.sa_handler = on_timeout;
    sigaction(SIGALRM, &action, nullptr);
}

void open_slot(const Settings& settings) {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("fuzz-input-" + std::to_string(getpid()))).string();
    if (path.size() >= sizeof slot_path || settings.artifact_prefix.size() >= sizeof artifact_start)
        throw std::runtime_error("path is too long");
    std::strcpy(slot_path, path.c_str());
    std::strcpy(artifact_start, settings.artifact_prefix.c_str());
    const std::size_t bytes = sizeof(Slot) + settings.length_max;
    const int fd = open(slot_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0)
        throw std::runtime_error(path + ": cannot be written");
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) throw std::runtime_error(path + ": cannot be mapped");
    slot = static_cast<Slot*>(memory);
}

void run_one(const Input& input, const Settings& settings) {
    slot->length = input.size();
    if (!input.empty()) std::memcpy(slot->bytes, input.data(), input.size());
    alarm(static_cast<unsigned>(settings.timeout_s));
    // A copy of exactly its size on the heap, so that a sanitizer sees a read past its end.
    const Input copy(input);
    LLVMFuzzerTestOneInput(copy.data(), copy.size());
    alarm(0);
}

// --- Mutations -------------------------------------------------------------------------------------------------------

// splitmix64: one number decides a whole input, and nearby seeds give unrelated streams.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15;
        std::uint64_t value = state_;
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
        return value ^ (value >> 31);
    }
    // 0 for a bound of 0, so that positions in an empty input need no case of their own.
    std::size_t below(std::size_t bound) { return bound == 0 ? 0 : next() % bound; }

private:
    std::uint64_t state_;
};

std::uint64_t interesting_integer(Random& random) {
    static constexpr std::uint64_t values[] = {
        0,          1,          2,         3,      4,         8,         9,          16,         51,    52,
        63,         64,         127,       128,    255,       256,       511,        512,        4095,  4096,
        4097,       0x7fff,     0x8000,    0xffff, 0x7ffffff, 0x1000000, 0x7fffffff, 0x80000000, ~0ULL, ~0ULL - 4095,
        1ULL << 32, 1ULL << 52, 1ULL << 63};
    const std::uint64_t value = values[random.below(std::size(values))];
    return random.below(4) == 0 ? value + random.below(3) - 1 : value;
}

void insert_at(Input& input, std::size_t at, const Input& bytes) {
    input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), bytes.begin(), bytes.end());
}

Input part_of(const Input& input, Random& random) {
    const std::size_t from = random.below(input.size());
    const std::size_t most = std::min<std::size_t>(input.size() - from, 1 + random.below(4096));
    const std::size_t count = std::min(input.size() - from, 1 + random.below(most));
    const auto first = input.begin() + static_cast<std::ptrdiff_t>(from);
    return Input(first, first + static_cast<std::ptrdiff_t>(count));
}

void overwrite_integer(Input& input, Random& random) {
    static constexpr std::size_t widths[] = {1, 2, 4, 8};
    const std::size_t width = widths[random.below(4)];
    if (input.size() < width) return;
    const std::size_t at = random.below(input.size() - width + 1);
    std::uint64_t value = interesting_integer(random);
    const bool big_endian = random.below(2) == 0;
    for (std::size_t i = 0; i < width; ++i, value >>= 8)
        input[at + (big_endian ? width - 1 - i : i)] = static_cast<std::uint8_t>(value);
}

void mutate(Input& input, const Input& other, Random& random) {
    switch (random.below(10)) {
    case 0:  // one bit
        if (!input.empty()) input[random.below(input.size())] ^= static_cast<std::uint8_t>(1U << random.below(8));
        return;
    case 1:  // one byte
        if (!input.empty()) input[random.below(input.size())] = static_cast<std::uint8_t>(random.next());
        return;
    case 2:  // a small step up or down, as off-by-one errors like it
        if (!input.empty()) input[random.below(input.size())] += random.below(2) == 0 ? 1 : 255;
        return;
    case 3: return overwrite_integer(input, random);
    case 4: return input.resize(random.below(input.size() + 1));
    case 5: {  // remove a stretch
        const std::size_t from = random.below(input.size());
        const std::size_t count = std::min(input.size() - from, 1 + random.below(64));
        const auto first = input.begin() + static_cast<std::ptrdiff_t>(from);
        input.erase(first, first + static_cast<std::ptrdiff_t>(count));
        return;
    }
    case 6: {  // insert random bytes
        Input bytes(1 + random.below(16));
        for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.next());
        return insert_at(input, random.below(input.size() + 1), bytes);
    }
    case 7: {  // a stretch once more, elsewhere
        const Input stretch = part_of(input, random);
        return insert_at(input, random.below(input.size() + 1), stretch);
    }
    case 8: {  // a stretch over another place
        const Input stretch = part_of(other, random);
        const std::size_t at = random.below(input.size());
        std::copy_n(stretch.begin(), std::min(stretch.size(), input.size() - at),
                    input.begin() + static_cast<std::ptrdiff_t>(at));
        return;
    }
    default: {  // splice: the start of this one, the end of another
        input.resize(random.below(input.size() + 1));
        const std::size_t from = random.below(other.size());
        input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        return;
    }
    }
}

// --- The run ---------------------------------------------------------------------------------------------------------

Input read_input(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + ": cannot be read");
    return Input(std::istreambuf_iterator<char>(file), {});
}

std::vector<Input> load_corpus(const Settings& settings) {
    std::vector<Input> corpus;
    Input buffer(settings.length_max);
    for (std::size_t index = 0; fuzz_seed != nullptr; ++index) {
        const std::size_t bytes = fuzz_seed(index, buffer.data(), buffer.size());
        if (bytes == 0) break;
        corpus.emplace_back(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(bytes));
    }
    for (const std::filesystem::path& path : settings.corpus) {
        std::vector<std::filesystem::path> files{path};
        if (std::filesystem::is_directory(path)) {
            files.clear();
            for (const auto& entry : std::filesystem::directory_iterator(path))
                if (entry.is_regular_file()) files.push_back(entry.path());
            std::sort(files.begin(), files.end());
        }
        for (const auto& file : files) corpus.push_back(read_input(file));
    }
    for (Input& input : corpus) input.resize(std::min<std::size_t>(input.size(), settings.length_max));
    if (corpus.empty()) corpus.emplace_back();
    return corpus;
}

Input mutated(const std::vector<Input>& corpus, std::uint64_t run, const Settings& settings) {
    Random random(Random(settings.seed).next() ^ run * 0x2545f4914f6cdd1d);
    Input input = corpus[random.below(corpus.size())];
    for (std::size_t count = 1 + random.below(8); count != 0; --count) {
        mutate(input, corpus[random.below(corpus.size())], random);
        if (input.size() > settings.length_max) input.resize(settings.length_max);
    }
    return input;
}

Settings parse_arguments(int argc, char** argv) {
    Settings settings;
    bool runs_given = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const auto number = [&](std::string_view name) -> std::optional<std::uint64_t> {
            if (!argument.starts_with(name)) return std::nullopt;
            const std::string_view digits = argument.substr(name.size());
            std::uint64_t value = 0;
            const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
            if (digits.empty() || parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size())
                throw std::runtime_error(std::string(argument) + ": not a number");
            return value;
        };
        if (const auto runs = number("-runs=")) {
            settings.runs = *runs;
            runs_given = true;
        } else if (const auto seed = number("-seed=")) {
            settings.seed = *seed;
        } else if (const auto seconds = number("-seconds=")) {
            settings.seconds = *seconds;
        } else if (const auto length = number("-max_len=")) {
            settings.length_max = *length;
        } else if (const auto timeout = number("-timeout=")) {
            settings.timeout_s = *timeout;
        } else if (argument.starts_with("-artifact_prefix=")) {
            settings.artifact_prefix = argument.substr(std::strlen("-artifact_prefix="));
        } else if (argument.starts_with("-")) {
            throw std::runtime_error("unknown option " + std::string(argument));
        } else {
            settings.corpus.emplace_back(argument);
        }
    }
    if (settings.seconds != 0 && !runs_given) settings.runs = ~0ULL;
    return settings;
}

int fuzz(const Settings& settings) {
    const std::vector<Input> corpus = load_corpus(settings);
    open_slot(settings);
    install_handlers();
    for (const Input& input : corpus) run_one(input, settings);
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    const Clock::time_point end = start + std::chrono::seconds(settings.seconds);
    std::uint64_t executed = 0;
    for (; executed < settings.runs; ++executed) {
        if (settings.seconds != 0 && Clock::now() >= end) break;
        run_one(mutated(corpus, executed, settings), settings);
    }
    unlink(slot_path);
    std::printf("fuzz: %zu inputs replayed, %llu mutated inputs executed, seed %llu\n", corpus.size(),
                static_cast<unsigned long long>(executed), static_cast<unsigned long long>(settings.seed));
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return fuzz(parse_arguments(argc, argv));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "fuzz: %s\n", error.what());
        return 2;
    }
}
