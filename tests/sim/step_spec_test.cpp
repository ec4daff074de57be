#include <catch2/catch.hpp>

#include <set>

#include "sim/scenario.hpp"
#include "sim/step_spec.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

TEST_CASE("every row of the step registry is complete and in the order of its id") {
    std::set<std::string_view> names;
    for (const StepSpec& step : step_specs()) {
        INFO(step.name);
        CHECK(&step_spec(step.id) == &step);
        CHECK(step_by_name(step.name) == &step);
        CHECK(names.insert(step.name).second);
        CHECK_FALSE(step.description.empty());
        CHECK((step.form == StepForm::bare) == step.fields.empty());
        if (step.form == StepForm::scalar) CHECK(step.fields.size() == 1);
        std::set<std::string_view> fields;
        bool has_choice = false;
        for (const FieldSpec& field : step.fields) {
            INFO(field.name);
            CHECK(fields.insert(field.name).second);
            CHECK_FALSE(field.description.empty());
            CHECK_FALSE((field.required && !field.default_text.empty()));
            CHECK_FALSE((field.required && field.in_choice));
            const bool has_values = field.type == FieldType::choice || field.type == FieldType::choice_list;
            CHECK(has_values == !field.values.empty());
            if (!field.not_with.empty()) CHECK(step.field(field.not_with) != nullptr);
            has_choice = has_choice || field.in_choice;
        }
        if (step.choice_required) CHECK(has_choice);
        if (step.short_field.empty()) continue;
        CHECK(step.form == StepForm::map);
        CHECK(step.field(step.short_field) != nullptr);
    }
    CHECK(step_by_name("memfd.creat") == nullptr);
    CHECK(step_by_name("session.create") == nullptr);
}

TEST_CASE("only what needs no kernel runs on a dead machine") {
    for (const StepSpec& step : step_specs()) {
        INFO(step.name);
        const bool expected = step.name.starts_with("expect.") || step.name == "reset" ||
                              step.name == "crash-kernel" || step.name == "advance" || step.name == "note" ||
                              step.name == "mark" || step.name == "kho.expect_map";
        CHECK(step.runs_when_dead == expected);
    }
}

TEST_CASE("an agent opens the device by itself for every LUO step but open, close and state, and for a VMM's files") {
    for (const StepSpec& step : step_specs()) {
        INFO(step.name);
        const bool by_vmm = step.name == "vm.preserve" || step.name == "vm.restore";
        const bool expected = by_vmm || (step.name.starts_with("luo.") && step.name != "luo.open" &&
                                         step.name != "luo.close" && step.name != "luo.state");
        CHECK(step.opens_luo == expected);
    }
}

TEST_CASE("list, reference page and schema show every step and every field") {
    const std::string plain = list_steps(false), page = list_steps(true), schema = json_schema();
    for (const StepSpec& step : step_specs()) {
        INFO(step.name);
        CHECK(plain.find("  " + std::string(step.name)) != std::string::npos);
        CHECK(page.find("### `" + std::string(step.name) + "`\n") != std::string::npos);
        CHECK(schema.find("\"" + std::string(step.name) + "\": {") != std::string::npos);
        for (const FieldSpec& field : step.fields) {
            if (step.form != StepForm::map) continue;
            CHECK(page.find("| `" + std::string(field.name) + "` |") != std::string::npos);
            CHECK(schema.find("\"" + std::string(field.name) + "\": {") != std::string::npos);
        }
    }
    for (std::size_t at = 0; at < plain.size();) {
        const std::size_t end = plain.find('\n', at);
        CHECK(end - at <= 80);
        at = end + 1;
    }
}

TEST_CASE("the schema names its draft, every profile, every invariant and every fault point") {
    const std::string schema = json_schema();
    CHECK(schema.find("https://json-schema.org/draft/2020-12/schema") != std::string::npos);
    for (const ProfileInfo& info : profiles())
        CHECK(schema.find("\"" + std::string(info.name) + "\"") != std::string::npos);
    for (std::string_view id : invariant_names())
        CHECK(schema.find("\"" + std::string(id) + "\"") != std::string::npos);
    for (const FaultPointInfo& info : fault_points())
        CHECK(schema.find("\"" + std::string(info.name) + "\"") != std::string::npos);
    for (const char* key : {"format", "scenario", "summary", "seed", "machine", "kernels", "parameters", "modules",
                            "faults", "steps", "expect", "under-faults", "reproduces", "repeat", "each"})
        CHECK(schema.find("\"" + std::string(key) + "\"") != std::string::npos);
}

TEST_CASE("profiles are found by their names and by no other") {
    for (const ProfileInfo& info : profiles()) {
        CHECK(profile_by_name(info.name) == info.id);
        CHECK(profile_info(info.id).name == info.name);
    }
    CHECK_FALSE(profile_by_name("linux-7.3"));
    CHECK_FALSE(profile_by_name(""));
}
