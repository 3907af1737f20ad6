// Format strings of the Arrow C data interface.
#include "arrow/type.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace mlpbank {
namespace {

using Kind = ArrowType::Kind;

constexpr int kMaxDictionaries = 8;  // one within the other

const std::map<std::string_view, std::pair<Kind, const char*>> kFormats = {
    {"n", {Kind::null, "null"}},
    {"b", {Kind::boolean, "bool"}},
    {"c", {Kind::int8, "int8"}},
    {"s", {Kind::int16, "int16"}},
    {"i", {Kind::int32, "int32"}},
    {"l", {Kind::int64, "int64"}},
    {"C", {Kind::uint8, "uint8"}},
    {"S", {Kind::uint16, "uint16"}},
    {"I", {Kind::uint32, "uint32"}},
    {"L", {Kind::uint64, "uint64"}},
    {"e", {Kind::float16, "float16"}},
    {"f", {Kind::float32, "float32"}},
    {"g", {Kind::float64, "float64"}},
    {"u", {Kind::text, "string"}},
    {"U", {Kind::large_text, "large_string"}},
    {"vu", {Kind::text_view, "string_view"}},
};

// Names of types that are not read, for messages.
const std::map<std::string_view, const char*> kOthers = {
    {"z", "binary"},     {"Z", "large_binary"}, {"vz", "binary_view"},     {"tdD", "date32"},
    {"tdm", "date64"},   {"tts", "time32"},     {"ttm", "time32"},         {"ttu", "time64"},
    {"ttn", "time64"},   {"tDs", "duration"},   {"tDm", "duration"},       {"tDu", "duration"},
    {"tDn", "duration"}, {"tiM", "interval"},   {"tiD", "interval"},       {"tin", "interval"},
    {"+l", "list"},      {"+L", "large_list"},  {"+vl", "list_view"},      {"+vL", "list_view"},
    {"+s", "struct"},    {"+m", "map"},         {"+r", "run_end_encoded"},
};

// "d:precision,scale" or "d:precision,scale,bits".
bool read_decimal(const char* format, ArrowType& type) {
  if (std::strncmp(format, "d:", 2) != 0) return false;
  char* end;
  const long precision = std::strtol(format + 2, &end, 10);
  if (*end != ',') return false;
  const long scale = std::strtol(end + 1, &end, 10);
  const long bits = *end == ',' ? std::strtol(end + 1, &end, 10) : 128;
  const bool is_size = bits == 32 || bits == 64 || bits == 128 || bits == 256;
  if (*end != '\0' || !is_size || precision < 1 || precision > 76 || scale < -300 || scale > 300)
    return false;
  type.kind = Kind::decimal;
  type.bits = static_cast<int>(bits);
  type.scale = static_cast<int>(scale);
  type.name = "decimal" + std::to_string(bits) + "(" + std::to_string(precision) + ", " +
              std::to_string(scale) + ")";
  return true;
}

// The name of an extension type in a schema's metadata: int32 pairs, then of each pair the int32
// length and the bytes of its key and its value. Its size is not known, so lengths are trusted as
// far as they are not negative.
std::string extension(const char* metadata) {
  if (metadata == nullptr) return "";
  const auto number = [&] {
    int32_t value;
    std::memcpy(&value, metadata, sizeof value);
    metadata += sizeof value;
    if (value < 0) throw std::invalid_argument("a schema whose metadata has a negative length");
    return value;
  };
  const auto text = [&] {
    const int32_t size = number();
    const std::string_view read(metadata, static_cast<std::size_t>(size));
    metadata += size;
    return read;
  };
  const int32_t pairs = number();
  for (int32_t i = 0; i < pairs; ++i) {
    const std::string_view key = text(), value = text();
    if (key == "ARROW:extension:name") return std::string(value);
  }
  return "";
}

ArrowType read(const ArrowSchema& schema, int depth) {
  if (schema.format == nullptr) throw std::invalid_argument("a schema without a format");
  if (depth > kMaxDictionaries)
    throw std::invalid_argument("dictionaries that are nested too deep");
  ArrowType type;
  const auto known = kFormats.find(schema.format);
  if (known != kFormats.end()) {
    type.kind = known->second.first;
    type.name = known->second.second;
  } else if (!read_decimal(schema.format, type)) {
    const auto other = kOthers.find(schema.format);
    if (other != kOthers.end()) {
      type.name = other->second;
    } else if (std::strncmp(schema.format, "ts", 2) == 0) {
      type.name = "timestamp";
    } else if (std::strncmp(schema.format, "w:", 2) == 0) {
      type.name = "fixed_size_binary";
    } else if (std::strncmp(schema.format, "+w:", 3) == 0) {
      type.name = "fixed_size_list";
    } else {
      type.name = "format '" + std::string(schema.format).substr(0, 40) + "'";
    }
  }
  const std::string own = extension(schema.metadata);
  if (own == "arrow.bool8" && type.kind == Kind::int8) {
    type.kind = Kind::byte_boolean;
    type.name = "bool8";
  } else if (!own.empty()) {
    type.kind = Kind::other;
    type.name = "extension type " + own.substr(0, 80);
  }
  if (schema.dictionary != nullptr) {
    if (type.kind != Kind::other && !type.is_integer())
      throw std::invalid_argument("a dictionary with indices of type " + type.name);
    type.values = std::make_shared<const ArrowType>(read(*schema.dictionary, depth + 1));
    type.name = "dictionary<" + type.values->name + ">";
    if (type.values->plain().kind == Kind::other) type.kind = Kind::other;
  }
  return type;
}

}  // namespace

ArrowType ArrowType::of(const ArrowSchema& schema) { return read(schema, 0); }

int64_t size_of(const ArrowType& type) {
  switch (type.kind) {
    case Kind::byte_boolean:
    case Kind::int8:
    case Kind::uint8:
      return 1;
    case Kind::int16:
    case Kind::uint16:
    case Kind::float16:
      return 2;
    case Kind::int32:
    case Kind::uint32:
    case Kind::float32:
      return 4;
    case Kind::decimal:
      return type.bits / 8;
    default:
      return 8;
  }
}

}  // namespace mlpbank
