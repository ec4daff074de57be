// The reference: what each letter must give in each situation, written from the specification.
//
// A small model of its own: no header of luo/ or kho/ is included here, and nothing is shared with them but the words.
// It is a table. For an action its rows are looked at from the top; the first whose condition holds says what the step
// gives and what changes:
//
//   preserve  the descriptor is closed          EBADF   –                                       LUO posting v3, …
//   preserve  neither normal nor updated        EBUSY   –                                       …
//   preserve  the token is taken                EEXIST  –                                       …
//   preserve  else                              ok      the file is registered                  …
//
// A row may also say `unspecified`: from here on the specification does not tell what happens (as after a jump with a
// stale root tree). Enumeration ends there.
//
// The world holds what a row can ask for: the state of LUO, descriptors, files with their pages, tokens in both
// directions, subsystems in the order of their registration, whether KHO is finalized, whether an image is loaded; and
// the findings that the referee must come to. It knows nothing of addresses, trees or bitmaps.
//
// Simplified: no call fails for want of memory; one agent; the next kernel is of the same profile.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sim/generate/alphabet.hpp"
#include "sim/profiles.hpp"

namespace kexec_sim::sim::generate {

enum class State : u8 { normal, prepared, frozen, updated };
std::string_view state_name(State state);

struct Edition {
    Profile profile = Profile::luo_v3;
    bool strict = false;  // defects as their authors would have them
    bool has_luo() const { return profile_info(profile).has_luo; }
};
/// For which profiles a row holds: a bit each.
using Profiles = u8;
inline constexpr Profiles profile_bit(Profile profile) {
    return static_cast<Profiles>(1U << static_cast<unsigned>(profile));
}

/// The pattern of each page; zero_pattern: zeros.
using Pages = std::vector<u32>;

struct World {
    explicit World(Edition of) : edition(of) { descriptors.fill(no_object); }

    struct File {
        Pages pages;
        bool frozen = false;  // its mapping: neither grows nor shrinks
    };
    struct Outgoing {
        int file = no_object;
        State state = State::normal;
    };
    struct Incoming {
        Pages pages;
        int file = no_object;  // of the previous kernel: two tokens may name one
        bool restored = false;
    };
    struct Subsystem {
        int name = no_object;
        Refusal refusal = Refusal::none;
        std::vector<std::string_view> calls;  // of its callbacks, since it registered
    };
    /// A folio of the bench, in a kernel without LUO.
    struct Folio {
        bool owned = true;       // by the bench, in this kernel
        bool preserved = false;  // in KHO's map
        bool came = false;       // preserved by the previous kernel
        bool restored = false;
    };
    enum class Device : u8 { unopened, open, closed };  // closed: by hand, and not opened by itself again

    Edition edition;
    State state = State::normal;
    bool dead = false;
    u32 generation = 0;
    Device device = Device::unopened;
    std::vector<File> files;
    std::array<int, descriptor_count> descriptors;  // index into `files`
    std::map<int, Outgoing> outgoing;               // by token
    std::map<int, Incoming> incoming;
    std::vector<Subsystem> subsystems;  // as registered; that of the files, before all of them, is implied
    std::vector<Folio> folios;
    std::set<int> known_subsystems;     // registered at some time in this generation
    std::set<int> incoming_subsystems;  // have a property in the incoming tree
    std::set<int> unclaimed;            // pages of these came over, and no finish has seen them
    bool image_loaded = false;
    bool image_hands_over = false;  // it was loaded while KHO was finalized (6.18 looks at that)
    bool finalized = false;         // KHO
    bool stale_root = false;        // KHO was finalized and aborted: its root tree still looks right
    bool rollback_owed = false;     // a freeze failed, and what it left (LUO-D5) is not cleaned up
    std::set<int> dropped;          // files dropped while KHO was finalized, which keeps their memory (LUO-D7)
    bool cancelled_alone = false;   // a file was, while KHO was finalized, which keeps its memory, and LUO its record
    bool dropped_came = false;      // memory of such files came from the previous kernel
    bool undefined = false;         // whatever comes now is not specified
    std::set<std::string> findings;

    File& file_at(int descriptor) { return files[static_cast<std::size_t>(descriptors.at(descriptor))]; }
    const File& file_at(int descriptor) const { return files[static_cast<std::size_t>(descriptors.at(descriptor))]; }
    bool is_open(int descriptor) const { return descriptors.at(descriptor) != no_object; }
    bool registered(int subsystem) const;
    /// What KHO would hand over is more than what is preserved, and nobody says what comes of it.
    bool leftovers() const { return rollback_owed || cancelled_alone; }
    /// Memfds a and b, or, for a kernel without LUO, folios x and y beside them: what every sequence begins with.
    void create_objects();
    /// Memfd `file` as every sequence begins with it.
    void create_file(int file);
};

struct Row {
    Action action{};
    Profiles in = 0;
    std::string_view when;
    bool (*applies)(const World&, const Letter&);
    /// "ok", an errno, "panic", "unspecified"; "": the errno of the callback that fails.
    std::string_view result;
    std::string_view change;  // in words; empty: nothing
    void (*then)(World&, const Letter&);
    std::string_view source;  // the section of the specification
};

/// What is no errno: the step is of no kernel any more; the sequence is none that can be judged.
inline constexpr std::string_view dead_word = "dead", unspecified = "unspecified";

/// The rows of kernels with LUO, and of those with KHO alone; reference.cpp and reference_kho.cpp.
void add_luo_rows(std::vector<Row>& rows);
void add_kho_rows(std::vector<Row>& rows);
/// A jump; what was promised to this kernel and not fetched is lost, and nobody says so.
World next_kernel(World& world);

class Reference {
public:
    explicit Reference(Edition edition);

    const Edition& edition() const { return edition_; }
    /// The table. A test breaks a row of it and looks whether that is noticed.
    std::vector<Row>& rows() { return rows_; }
    const std::vector<Row>& rows() const { return rows_; }
    World world() const { return World(edition_); }
    struct Answer {
        std::string result;
        const Row* row = nullptr;  // null: the kernel is dead, or nothing is specified any more
    };
    /// What `letter` gives; the world changes as the row says.
    Answer step(World& world, const Letter& letter) const;

private:
    const Row& row_for(const World& world, const Letter& letter) const;

    Edition edition_;
    std::vector<Row> rows_;
};

}  // namespace kexec_sim::sim::generate
