# What somebody thinks of a book: HTTP before memcached, over a connection for each request.
require "socket"

def store(key, value)
  TCPSocket.open("memcached", 11211) do |to|
    to.write("set #{key} 0 0 #{value.bytesize}\r\n#{value}\r\n")
    to.gets
  end
end

def load(key)
  TCPSocket.open("memcached", 11211) do |to|
    to.write("get #{key}\r\n")
    found = to.gets.split
    found[0] == "VALUE" ? to.read(found[3].to_i) : ""
  end
end

def answer(to, status, text)
  to.write("HTTP/1.1 #{status}\r\nContent-Length: #{text.bytesize}\r\nConnection: close\r\n\r\n#{text}")
end

def serve(client)
  method, path = client.gets.to_s.split
  length = 0
  while (line = client.gets) && line != "\r\n"
    length = line.split(":")[1].to_i if line.downcase.start_with?("content-length:")
  end
  return answer(client, "200 OK", "alive\n") if path == "/alive"
  store("review", client.read(length)) if method == "POST"
  answer(client, "200 OK", load("review") + "\n")
rescue SystemCallError => error
  answer(client, "502 Bad Gateway", "#{error.message}\n")
ensure
  client.close
end

server = TCPServer.new("0.0.0.0", 8080)
loop { Thread.new(server.accept) { |client| serve(client) } }
