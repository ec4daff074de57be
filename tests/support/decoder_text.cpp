// The result as text: one fact a line, first word its kind, in the order in which the decoder met it. Neighbouring
// folios of a file share a line, so that a file of a GiB does not take a quarter of a million.
#include <algorithm>

#include "tests/support/decoder_reader.hpp"

namespace decoder {

namespace {

std::string bytes_text(const Bytes& bytes) {
    static constexpr std::string_view digits = "0123456789abcdef";
    static constexpr std::size_t shown_max = 64;
    std::string text;
    for (std::size_t i = 0; i < std::min(bytes.size(), shown_max); ++i) {
        text += digits[bytes[i] >> 4];
        text += digits[bytes[i] & 15];
    }
    if (bytes.size() > shown_max) text += "...";
    return text;
}

// A name as it stands, and what would break the line as \xNN.
std::string printable(std::string_view name) {
    static constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte > 0x20 && byte < 0x7f && byte != '\\')
            text += c;
        else
            text.append("\\x").append(1, digits[byte >> 4]).append(1, digits[byte & 15]);
    }
    return text.empty() ? "''" : text;
}

std::string flags_text(std::uint32_t flags) {
    std::string text;
    if ((flags & 1) != 0) text += ",dirty";
    if ((flags & 2) != 0) text += ",uptodate";
    if ((flags & ~3U) != 0) text += "," + hex(flags & ~3U);
    return text.empty() ? "none" : text.substr(1);
}

class Writer {
public:
    explicit Writer(const Result& result) : result_(result) {}

    std::string run() {
        parameters();
        root();
        map();
        for (const Subtree& subtree : result_.subtrees) tree(subtree);
        for (const Reservation& entry : result_.reserve_mem)
            line("reserve_mem " + printable(entry.name) + " start=" + hex(entry.start) + " size=" + hex(entry.size));
        if (result_.luo) luo(*result_.luo);
        if (result_.test_kho) test_kho(*result_.test_kho);
        for (const Problem& problem : result_.problems)
            line("problem " + hex(problem.phys) + " " + plain(problem.what));
        for (const Problem& finding : result_.findings)
            line("finding " + hex(finding.phys) + " " + plain(finding.what));
        summary();
        return std::move(text_);
    }

private:
    void line(const std::string& fact) { text_ += fact + "\n"; }

    // Words quote names out of the blob; spaces may stay.
    static std::string plain(std::string_view words) {
        std::string text;
        for (const char c : words) text += c == ' ' ? std::string(1, c) : printable(std::string_view(&c, 1));
        return text;
    }

    void parameters() {
        const HandoverParams& params = result_.params;
        line("handover fdt=" + hex(params.fdt_addr) + " fdt_size=" + std::to_string(params.fdt_size) +
             " scratch=" + hex(params.scratch_addr) + " scratch_size=" + std::to_string(params.scratch_size) +
             " bitmap_bytes=" + std::to_string(result_.bitmap_bytes));
        for (std::size_t i = 0; i < result_.scratch.size(); ++i)
            line("scratch " + std::to_string(i) + " addr=" + hex(result_.scratch[i].addr) +
                 " size=" + hex(result_.scratch[i].size));
    }

    void root() {
        if (!result_.root) return;
        line("root compatible=" + printable(result_.compatible) +
             " bytes=" + std::to_string(result_.root->total_size));
        if (result_.map) line("map " + hex(*result_.map));
    }

    void map() {
        for (const Chunk& chunk : result_.chunks) {
            line("chunk " + hex(chunk.phys) + " next=" + hex(chunk.next) + " order=" + std::to_string(chunk.order) +
                 " num_elms=" + std::to_string(chunk.num_elms));
            for (const BitmapElement& element : chunk.elements)
                line("bitmap " + hex(element.bitmap) + " order=" + std::to_string(chunk.order) +
                     " start=" + hex(element.phys_start) + " bits=" + std::to_string(element.bits_set));
        }
        for (const Run& run : result_.runs)
            line("preserved order=" + std::to_string(run.order) + " pfn=" + hex(run.pfn) + ".." + hex(run.pfn_end()) +
                 " blocks=" + std::to_string(run.count));
    }

    void tree(const Subtree& subtree) {
        line("subtree " + printable(subtree.name) + " phys=" + hex(subtree.phys) +
             (subtree.tree ? " bytes=" + std::to_string(subtree.tree->total_size) : " unreadable"));
        if (subtree.tree) node(printable(subtree.name), subtree.tree->root);
    }

    void node(const std::string& path, const Node& at) {
        for (const Property& property : at.properties)
            line("property " + path + ":" + printable(property.name) +
                 " length=" + std::to_string(property.value.size()) + " value=" + bytes_text(property.value));
        for (const Node& child : at.children) node(path + "/" + printable(child.name), child);
    }

    void luo(const Luo& luo) {
        for (const Subsystem& subsystem : luo.subsystems)
            line("subsystem " + printable(subsystem.name) + " data=" + hex(subsystem.data));
        for (const PreservedFile& preserved : luo.files) file(preserved);
    }

    void file(const PreservedFile& file) {
        line("file " + hex(file.token) + " compatible=" + printable(file.compatible) + " data=" + hex(file.data));
        if (!file.memfd) return;
        const Memfd& memfd = *file.memfd;
        line("memfd " + hex(file.token) + " pos=" + std::to_string(memfd.pos) +
             " size=" + std::to_string(memfd.size) + " folios=" + std::to_string(memfd.folios.size()));
        for (std::size_t first = 0; first < memfd.folios.size();) first = folio_run(file.token, memfd, first);
    }

    // One line for as many folios as continue each other in memory and in the file; returns the one after them.
    std::size_t folio_run(std::uint64_t token, const Memfd& memfd, std::size_t first) {
        const MemfdFolio& start = memfd.folios[first];
        // Folios larger than a page advance by their size, which only the map knows.
        const std::uint64_t frames = 1ULL << order_at(result_, start.pfn).value_or(0);
        std::size_t end = first + 1;
        while (end < memfd.folios.size() && follows(memfd.folios[end - 1], memfd.folios[end], frames)) ++end;
        const std::uint64_t count = end - first;
        line("folios " + hex(token) + " index=" + std::to_string(start.index) + " pfn=" + hex(start.pfn) + " count=" +
             std::to_string(count) + " frames=" + std::to_string(frames) + " flags=" + flags_text(start.flags));
        return end;
    }

    bool follows(const MemfdFolio& before, const MemfdFolio& after, std::uint64_t frames) const {
        return after.pfn == before.pfn + frames && after.index == before.index + frames &&
               after.flags == before.flags && 1ULL << order_at(result_, after.pfn).value_or(0) == frames;
    }

    void test_kho(const TestKho& test) {
        line("kho_test magic=" + hex(test.magic) + " nr_folios=" + std::to_string(test.nr_folios) +
             " csum=" + hex(test.checksum));
        if (test.vmalloc) {
            line("vmalloc chunk=" + hex(test.vmalloc->first_chunk) +
                 " pages=" + std::to_string(test.vmalloc->total_pages) + " flags=" + hex(test.vmalloc->flags) +
                 " order=" + std::to_string(test.vmalloc->order) +
                 " chunks=" + std::to_string(test.vmalloc->chunks.size()));
            for (const std::uint64_t block : test.vmalloc->blocks) line("vmalloc_block " + hex(block));
        }
        for (const Block& folio : test.folios)
            line("kho_test_folio pfn=" + hex(folio.pfn) + " order=" + std::to_string(folio.order));
    }

    void summary() {
        std::uint64_t block_count = 0;
        for (const Run& run : result_.runs) block_count += run.count;
        std::uint64_t frames = 0;
        for (const FrameRange& range : coverage(result_)) frames += range.end - range.begin;
        line("summary blocks=" + std::to_string(block_count) + " frames=" + std::to_string(frames) + " chunks=" +
             std::to_string(result_.chunks.size()) + " subtrees=" + std::to_string(result_.subtrees.size()) +
             " problems=" + std::to_string(result_.problems.size()) +
             " findings=" + std::to_string(result_.findings.size()));
    }

    const Result& result_;
    std::string text_;
};

}  // namespace

std::string to_text(const Result& result) { return Writer(result).run(); }

}  // namespace decoder
